//! The probe server as a program.

fn main() {}
