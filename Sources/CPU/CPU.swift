// CPU
