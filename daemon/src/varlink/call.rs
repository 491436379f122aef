//! What an interface is asked, and what it answers.

use std::{fmt, os::fd::OwnedFd, sync::Arc};

use futures_util::stream::LocalBoxStream;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json, value::RawValue};

/// An interface that [`serve`](super::server::serve) offers.
pub trait Interface {
    /// The interface's name, such as `org.rootlessd.Supervisor`.
    fn name(&self) -> &'static str;

    /// The interface's text, for `GetInterfaceDescription`.
    fn idl(&self) -> &'static str;

    /// What a client is told that is one too many, before its connection ends.
    fn busy(&self) -> Option<ErrorReply> {
        None
    }

    /// Answer a call of one of the interface's methods.
    ///
    /// Calls of one connection come one after the other, calls of different ones at the same time.
    /// The future is dropped if the client hangs up meanwhile.
    fn call(&self, request: Request) -> impl Future<Output = Result<Answer, ErrorReply>>;
}

/// A call: its method, and its parameters to be taken one by one.
///
/// Take every parameter, then call [`end`](Self::end), before anything happens: what was not taken
/// is a parameter that the method does not have.
#[derive(Debug)]
pub struct Request {
    method: String,
    parameters: Map<String, Value>,
    more: bool,
}

impl Request {
    pub(super) fn new(method: String, parameters: Map<String, Value>, more: bool) -> Self {
        Self { method, parameters, more }
    }

    /// The method, without the interface.
    pub fn method(&self) -> &str {
        self.method.rsplit_once('.').map_or(self.method.as_str(), |(_, method)| method)
    }

    /// Take a parameter.
    pub fn required<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, ErrorReply> {
        self.optional(name)?.ok_or_else(|| ErrorReply::invalid_parameter(name))
    }

    /// Take a parameter that may be absent or null.
    pub fn optional<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, ErrorReply> {
        let Some(value) = self.parameters.remove(name) else { return Ok(None) };
        serde_json::from_value(value).map_err(|_| ErrorReply::invalid_parameter(name))
    }

    /// Refuse the parameters that nobody took.
    pub fn end(&self) -> Result<(), ErrorReply> {
        match self.parameters.keys().next() {
            Some(name) => Err(ErrorReply::invalid_parameter(name)),
            None => Ok(()),
        }
    }

    /// Whether the caller takes more than one reply.
    pub const fn wants_more(&self) -> bool {
        self.more
    }

    /// Refuse a call without `more`.
    pub fn expect_more(&self) -> Result<(), ErrorReply> {
        if self.more { Ok(()) } else { Err(ErrorReply::expected_more()) }
    }

    /// What a call is answered whose method the interface does not have.
    pub fn unknown_method(&self) -> ErrorReply {
        ErrorReply::method_not_found(&self.method)
    }
}

/// A good answer.
pub enum Answer {
    /// One reply.
    One(Value),
    /// One reply, which is the same for several callers.
    Shared(Arc<RawValue>),
    /// One reply, and open files that go with it.
    OneWithFds(Value, Vec<OwnedFd>),
    /// A reply for each value of the stream, and when that ends the connection does. A call
    /// without `more` gets the first.
    Many(LocalBoxStream<'static, Value>),
}

impl Answer {
    /// The reply without parameters.
    pub fn nothing() -> Self {
        Self::One(json!({}))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(value) => f.debug_tuple("One").field(value).finish(),
            Self::Shared(value) => f.debug_tuple("Shared").field(value).finish(),
            Self::OneWithFds(value, fds) => {
                f.debug_tuple("OneWithFds").field(value).field(fds).finish()
            }
            Self::Many(_) => f.write_str("Many(..)"),
        }
    }
}

/// An error, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorReply {
    /// The error's full name.
    pub error: String,
    /// Its parameters.
    pub parameters: Value,
}

impl ErrorReply {
    /// An error of somebody's own interface.
    pub fn new(error: impl Into<String>, parameters: Value) -> Self {
        Self { error: error.into(), parameters }
    }

    /// The parameter is missing, unknown, or has a wrong type or value.
    pub fn invalid_parameter(parameter: &str) -> Self {
        Self::standard("InvalidParameter", json!({ "parameter": parameter }))
    }

    /// There is no such method; `method` with its interface.
    pub fn method_not_found(method: &str) -> Self {
        Self::standard("MethodNotFound", json!({ "method": method }))
    }

    /// The method exists, but not in the way it was called; `method` with its interface.
    pub fn method_not_implemented(method: &str) -> Self {
        Self::standard("MethodNotImplemented", json!({ "method": method }))
    }

    /// There is no such interface.
    pub fn interface_not_found(interface: &str) -> Self {
        Self::standard("InterfaceNotFound", json!({ "interface": interface }))
    }

    /// The caller is somebody else.
    pub fn permission_denied() -> Self {
        Self::standard("PermissionDenied", json!({}))
    }

    /// The method only makes sense with `more`.
    pub fn expected_more() -> Self {
        Self::standard("ExpectedMore", json!({}))
    }

    fn standard(name: &str, parameters: Value) -> Self {
        Self::new(format!("org.varlink.service.{name}"), parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(parameters: Value) -> Request {
        let Value::Object(parameters) = parameters else { panic!("not an object") };
        Request::new("org.example.Thing.Do".into(), parameters, false)
    }

    #[test]
    fn parameters_are_taken_by_name_and_type() {
        let bad = |parameter| Err(ErrorReply::invalid_parameter(parameter));
        let mut good = request(json!({ "id": 7, "timeout": null }));
        assert_eq!(good.method(), "Do");
        assert_eq!(good.required::<u32>("id"), Ok(7));
        assert_eq!(good.optional::<u64>("timeout"), Ok(None));
        assert_eq!(good.end(), Ok(()));

        for wrong in
            [json!("7"), json!(-7), json!(7.5), json!([7]), json!(null), json!(1_u64 << 40)]
        {
            assert_eq!(
                request(json!({ "id": wrong })).required::<u32>("id"),
                bad("id").map(|()| 0)
            );
        }
        assert_eq!(request(json!({})).required::<u32>("id"), bad("id").map(|()| 0));
        assert_eq!(request(json!({ "force": true })).end(), bad("force"));
    }

    #[test]
    fn an_unknown_method_is_named_in_full() {
        let error = request(json!({})).unknown_method();
        assert_eq!(error.parameters, json!({ "method": "org.example.Thing.Do" }));
    }
}
