//! The parts of the `nat-check` program: command line, plan, what a report must say, and the report as text. What it measures
//! with is the library [`nat_check_core`].

pub mod args;
pub mod map_plan;
pub mod plan;
pub mod punch_plan;
pub mod qr;
pub mod render;
pub mod require;
pub mod room_plan;
pub mod server_list;
pub mod terminal;
pub mod usage;
