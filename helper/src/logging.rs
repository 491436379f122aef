//! What the helper says, and where.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, prelude::*};

/// Logs to the journal. Where there is none, or a person looks on, to standard error.
pub fn init(service: bool) {
    let journal = tracing_journald::layer().ok().map(|layer| layer.with_field_prefix(None));
    let stderr = (journal.is_none() && service).then(|| {
        tracing_subscriber::fmt::layer().with_target(false).with_writer(std::io::stderr).compact()
    });
    // A second call, as in tests, changes nothing.
    let _ = Registry::default().with(LevelFilter::INFO).with(journal).with(stderr).try_init();
}
