pub mod bar;
pub mod bus;
pub mod cli;
pub mod metrics;
