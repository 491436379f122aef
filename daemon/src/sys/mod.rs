//! What the kernel offers, in the shape that the rest needs it.

pub mod activity;
pub mod cgroup;
pub mod children;
pub mod clock;
pub mod fd;
pub mod files;
pub mod grpc;
pub mod http;
pub mod leaps;
mod netlink;
pub mod notify;
pub mod oom;
pub mod process;
pub mod route;
pub mod sock_diag;
