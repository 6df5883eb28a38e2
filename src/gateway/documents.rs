//! The protocol as documents for programs. Tests hold them against what the server sends.

/// AsyncAPI 3 of the WebSocket's messages and of those in Redis.
pub const ASYNCAPI: &str = include_str!("../../docs/asyncapi.json");
/// OpenAPI 3.1 of the HTTP routes.
pub const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// Where they are served.
pub const ASYNCAPI_PATH: &str = "/api/v1/asyncapi.json";
pub const OPENAPI_PATH: &str = "/api/v1/openapi.json";
