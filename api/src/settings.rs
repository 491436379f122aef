//! The effective configuration, as `GetConfig` tells it.

use serde::{Deserialize, Serialize};

/// One key of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The dotted key, such as `engine.stop_timeout`.
    pub key: String,
    /// The value, as TOML writes it.
    pub value: String,
    /// Where it comes from: `default`, `FILE:LINE`, or `environment: NAME`.
    pub source: String,
}

/// Where the log of a part is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLocation {
    /// The directory with one `PART.log` a part, or absent: the lines are in the user's journal,
    /// with the field `ROOTLESSD_PART`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}
