//! The stable names of what can be the matter with the machine or the configuration.
