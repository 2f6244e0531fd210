//! Fuzzes `lan`.
#![no_main]
#[path = "../targets.rs"]
#[allow(dead_code, reason = "one of several targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::clients::lan(bytes));
