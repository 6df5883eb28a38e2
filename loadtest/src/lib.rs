//! loadtest: measures barcast, and what it is compared with, from the outside.
//!
//! It speaks barcast's words ([`barcast::bar`]) and nothing else of it.
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | the commands |
//! | [`run`], [`report`] | one experiment against one server |
//! | [`stage`] | the parts that experiments against one server are put together from |
//! | [`ramp`] | how much one server carries: steps to the knee, and the law that they follow |
//! | [`churn`] | what clients that come and go do to those that stay |
//! | [`pair`], [`pair_report`] | two servers: the ratio of their costs |
//! | [`compare`], [`compare_report`], [`peers`] | several servers, what people use today among them |
//! | [`turns`] | pulses to several servers in turn: how these two measure |
//! | [`plan`] | how many gateways a load needs |
//! | [`outcome`] | any experiment's report as a file |
//! | [`html`] | such files as a page with plots |
//! | [`floor`] | the yardstick server |
//! | [`load`], [`market`], [`watchlist`], [`publisher`] | what is published, who watches it, the schedule |
//! | [`swarm`], [`frame`], [`update`], [`tally`] | the clients: reading, and keeping account of what came |
//! | [`rig`], [`site`], [`servers`], [`child`], [`pins`] | starting and ending what is measured, and where it runs |
//! | [`process`], [`occupancy`], [`strace`], [`machine`], [`figures`], [`clock`], [`progress`] | CPU, who used the cores, memory, system calls, where it was measured, how figures are told |
//!
//! An experiment is open loop: bars are published when they are planned, whatever the server does, and
//! latency counts from the planned time. `seq` counts the ticks, so that both sides know without a table
//! what must come and which bars are closed.

pub mod child;
pub mod churn;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod compare_report;
pub mod figures;
pub mod floor;
pub mod frame;
pub mod html;
pub mod load;
pub mod machine;
pub mod market;
pub mod occupancy;
pub mod outcome;
pub mod pair;
pub mod pair_report;
pub mod peers;
pub mod pins;
pub mod plan;
pub mod process;
pub mod progress;
pub mod publisher;
pub mod ramp;
pub mod report;
pub mod rig;
pub mod run;
pub mod servers;
pub mod site;
pub mod stage;
pub mod strace;
pub mod swarm;
pub mod tally;
pub mod turns;
pub mod update;
pub mod watchlist;
