pub mod bar;
pub mod bus;
pub mod cli;
pub mod generator;
pub mod metrics;
pub mod replay;
