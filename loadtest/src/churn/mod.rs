//! `loadtest churn`: what clients that come and go do to those that stay.

pub mod report;
