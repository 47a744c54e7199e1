// QAPI
