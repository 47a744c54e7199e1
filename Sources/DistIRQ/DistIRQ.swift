// DistIRQ
