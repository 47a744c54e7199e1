// Shm
