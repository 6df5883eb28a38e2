//! The documents say what is so: links, settings, metrics, close codes, routes, commands, bounds and
//! instruction counts are compared with the files, the binary and the source; the source's habits with what
//! ARCHITECTURE.md says of them. The programs of docs/clients.md are run by tests/python/test_clients_doc.py.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bounds;
mod dashboards;
mod instructions;
mod links;
mod pages;
mod quotes;
mod running;
mod settings;
mod style;
