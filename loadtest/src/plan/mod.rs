//! `loadtest plan`: how many gateways a load needs, from what one was measured to cost.

pub mod report;
