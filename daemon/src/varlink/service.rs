//! `org.varlink.service`, which every server has: who it is, and what its interfaces look like.

use serde_json::json;

use super::call::{Answer, ErrorReply, Interface, Request};

/// The interface's name.
pub(super) const NAME: &str = "org.varlink.service";

const IDL: &str = "\
# What every varlink service tells about itself.
interface org.varlink.service

# Who answers, and the interfaces it has.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# The text of an interface.
method GetInterfaceDescription(interface: string) -> (description: string)

# There is no such interface.
error InterfaceNotFound (interface: string)

# The interface has no such method.
error MethodNotFound (method: string)

# The interface has the method, this service does not.
error MethodNotImplemented (method: string)

# A parameter is missing, unknown, or has a wrong type or value.
error InvalidParameter (parameter: string)

# The caller may not call.
error PermissionDenied ()

# The method needs the flag `more`.
error ExpectedMore ()
";

/// Answer a call of this interface, for a server of `interface`.
pub(super) fn call<I: Interface>(
    interface: &I,
    mut request: Request,
) -> Result<Answer, ErrorReply> {
    match request.method() {
        "GetInfo" => {
            request.end()?;
            Ok(Answer::One(json!({
                "vendor": "rootlessd",
                "product": "rootlessd",
                "version": env!("CARGO_PKG_VERSION"),
                "url": env!("CARGO_PKG_HOMEPAGE"),
                "interfaces": [NAME, interface.name()],
            })))
        }
        "GetInterfaceDescription" => {
            let name: String = request.required("interface")?;
            request.end()?;
            let description = match name.as_str() {
                NAME => IDL,
                own if own == interface.name() => interface.idl(),
                other => return Err(ErrorReply::interface_not_found(other)),
            };
            Ok(Answer::One(json!({ "description": description })))
        }
        _ => Err(request.unknown_method()),
    }
}
