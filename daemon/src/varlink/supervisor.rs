//! `org.rootlessd.Supervisor`: the supervisor's [`Handle`] on varlink.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use rootlessd_api::{Error, ErrorKind, JobKind, JobOptions, Port, Status, names};
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    call::{Answer, ErrorReply, Interface, Request},
    events,
};
use crate::{events::Wanted, supervisor::handle::Handle};

/// The interface. It holds no logic: every method is one of [`Handle`].
#[derive(Clone, Debug)]
pub struct Supervisor {
    handle: Handle,
    /// The last status that somebody asked for, and how it is written.
    rendered: RefCell<Option<(Arc<Status>, Arc<RawValue>)>>,
}

impl Supervisor {
    /// The interface on `handle`.
    pub fn new(handle: Handle) -> Self {
        Self { handle, rendered: RefCell::default() }
    }
}

impl Interface for Supervisor {
    fn name(&self) -> &'static str {
        names::VARLINK_INTERFACE
    }

    fn idl(&self) -> &'static str {
        names::VARLINK_IDL
    }

    fn busy(&self) -> Option<ErrorReply> {
        let error = Error::new(ErrorKind::Busy, "too many clients are connected to rootlessd");
        Some(refusal(error.with_remedy("close some of them, or try again later"), ""))
    }

    async fn call(&self, mut request: Request) -> Result<Answer, ErrorReply> {
        let handle = &self.handle;
        match request.method() {
            "GetStatus" => {
                request.end()?;
                let status = handle.full_status().await.map_err(|error| refusal(error, ""))?;
                Ok(Answer::Shared(self.render(status)?))
            }
            "Watch" => {
                request.end()?;
                Ok(events::watch(handle))
            }
            "ListEvents" => {
                let wanted =
                    Wanted { since: request.optional("since")?, after: request.optional("after")? };
                let limit = request.optional("limit")?;
                request.end()?;
                let all = handle.events();
                let answer = match request.wants_more() {
                    true => events::follow(all, wanted, limit).await,
                    false => events::list(all, wanted, limit).await,
                };
                answer.map_err(|error| refusal(error, ""))
            }
            "Start" => self.begin(JobKind::Start, request).await,
            "Stop" => self.begin(JobKind::Stop, request).await,
            "Restart" => self.begin(JobKind::Restart, request).await,
            "Upgrade" => self.begin(JobKind::Upgrade, request).await,
            "Reload" => {
                request.end()?;
                nothing(handle.reload().await, "")
            }
            "ResetFailed" => {
                request.end()?;
                nothing(handle.reset_failed().await, "")
            }
            "WaitJob" => {
                let id = request.required("id")?;
                request.end()?;
                answer("job", handle.wait_job(id).await, "id")
            }
            "CancelJob" => {
                let id = request.required("id")?;
                request.end()?;
                nothing(handle.cancel_job(id).await, "id")
            }
            "ListJobs" => {
                request.end()?;
                answer("jobs", handle.jobs().await, "")
            }
            "ListPorts" => {
                request.end()?;
                answer("ports", handle.list_ports().await, "")
            }
            "RequestPorts" => {
                let ports: Vec<Port> = request.required("ports")?;
                let interactive = request.optional("allowInteractiveAuthentication")?;
                request.end()?;
                let ports = ports.into_iter().collect();
                match handle.request_ports(ports, interactive.unwrap_or(false)).await {
                    Ok(outcome) => value(&outcome).map(Answer::One),
                    Err(error) => Err(refusal(error, "ports")),
                }
            }
            "RefreshPorts" => {
                request.end()?;
                nothing(handle.refresh_ports().await, "")
            }
            "GetConfig" => {
                request.end()?;
                answer("settings", handle.settings().await, "")
            }
            "GetLogLocation" => {
                request.end()?;
                value(handle.log_location()).map(Answer::One)
            }
            _ => Err(request.unknown_method()),
        }
    }
}

impl Supervisor {
    /// The status as a reply. Whoever asks at the same time gets the same, which is written out once.
    fn render(&self, status: Arc<Status>) -> Result<Arc<RawValue>, ErrorReply> {
        if let Some((last, rendered)) = &*self.rendered.borrow()
            && Arc::ptr_eq(last, &status)
        {
            return Ok(Arc::clone(rendered));
        }
        let reply = to_raw_value(&BTreeMap::from([("status", &*status)]));
        let internal =
            |error: serde_json::Error| Error::new(ErrorKind::Internal, error.to_string());
        let rendered: Arc<RawValue> = reply.map_err(|error| refusal(internal(error), ""))?.into();
        self.rendered.replace(Some((status, Arc::clone(&rendered))));
        Ok(rendered)
    }

    async fn begin(&self, kind: JobKind, mut request: Request) -> Result<Answer, ErrorReply> {
        let keep_containers = match kind {
            JobKind::Restart => request.optional("keepContainers")?,
            _ => None,
        };
        let options = JobOptions { timeout: request.optional("timeout")?, keep_containers };
        request.end()?;
        answer("job", self.handle.request(kind, options).await, "timeout")
    }
}

fn answer<T: Serialize>(
    name: &'static str,
    result: Result<T, Error>,
    parameter: &'static str,
) -> Result<Answer, ErrorReply> {
    match result {
        Ok(result) => Ok(Answer::One(json!({ name: value(&result)? }))),
        Err(error) => Err(refusal(error, parameter)),
    }
}

fn nothing(result: Result<(), Error>, parameter: &'static str) -> Result<Answer, ErrorReply> {
    result.map(|()| Answer::nothing()).map_err(|error| refusal(error, parameter))
}

fn value<T: Serialize>(result: &T) -> Result<Value, ErrorReply> {
    serde_json::to_value(result)
        .map_err(|error| refusal(Error::new(ErrorKind::Internal, error.to_string()), ""))
}

/// The error on the wire. `parameter` is the one that the supervisor could find fault with.
fn refusal(error: Error, parameter: &'static str) -> ErrorReply {
    match error.kind {
        ErrorKind::InvalidArgument => ErrorReply::invalid_parameter(parameter),
        ErrorKind::AccessDenied => ErrorReply::permission_denied(),
        kind => {
            let mut parameters = json!({ "message": error.message });
            if let Some(remedy) = error.remedy {
                parameters["remedy"] = remedy.into();
            }
            ErrorReply::new(format!("{}.{kind}", names::VARLINK_INTERFACE), parameters)
        }
    }
}
