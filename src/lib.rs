//! placeholder
pub mod bar;
pub mod bus;
pub mod cli;
pub mod gateway;
pub mod history;
pub mod limited;
pub mod metrics;
pub mod ui;
