//! barcast: OHLCV bars from any number of producers, through Redis Pub/Sub, to very many WebSocket
//! clients.
//!
//! The story of a bar: a [`generator`] (or [`replay`], or anybody with a Redis client) publishes it
//! on the [`bus`]; a [`gateway`] takes it in, keeps it in its [`history`], encodes one WebSocket frame
//! and writes that frame to every client that subscribed; [`record`] keeps it for the long run. All speak
//! the words of [`bar`].
//!
//! Modules import one way: `main` and [`cli`] → edges (`bus`, `generator`, `record`, `replay`, the gateway's
//! `http` and `session`, and [`client`] with [`tail`] and [`check`] on the other side) → core (the gateway's `hub`, `lag` and `outbox`, and `history`) → words
//! (`bar`). The core and the words know no hyper, no redis and no socket.
//!
//! [`run`] holds the entry points that `main` and the tests call.

pub mod aggregate;
pub mod ahead;
pub mod bar;
pub mod bus;
pub mod check;
pub mod cli;
pub mod client;
pub mod clock;
pub mod feed;
pub mod files;
pub mod gateway;
pub mod generator;
pub mod health;
pub mod history;
pub mod limited;
pub mod metrics;
pub mod networks;
pub mod output;
pub mod record;
pub mod replay;
pub mod run;
pub mod running;
pub mod tail;
pub mod ui;
