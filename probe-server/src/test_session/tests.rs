//! The rules, whatever is said in whatever order.
