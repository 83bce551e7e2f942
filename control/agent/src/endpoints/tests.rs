//! ADD, DEL, CHECK and GC against a kernel in memory that can be told to fail.
