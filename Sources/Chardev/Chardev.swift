// Chardev
