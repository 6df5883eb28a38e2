//! `loadtest ramp`: how much one server carries.

pub mod report;
pub mod usl;
