//! Whether JSON is what a varlink interface says: no more and no less.

use serde_json::{Map, Value};
use zlink::idl::{CustomType, Interface, Type};

/// A field's name and type.
pub type Field<'a> = (String, &'a Type<'a>);

/// Check an object against its fields. With `full`, every optional field has to be there.
pub fn check_object(
    interface: &Interface<'_>,
    fields: &[Field<'_>],
    object: &Map<String, Value>,
    full: bool,
) -> Result<(), String> {
    for (name, value) in object {
        let field = fields.iter().find(|(known, _)| known == name);
        let (_, kind) = field.ok_or_else(|| format!("{name} is not in the interface"))?;
        check(interface, kind, value, full).map_err(|error| format!("{name}: {error}"))?;
    }
    for (name, kind) in fields {
        let needed = full || !matches!(kind, Type::Optional(_));
        if needed && !object.contains_key(name) {
            return Err(format!("{name} is absent"));
        }
    }
    Ok(())
}

fn check(
    interface: &Interface<'_>,
    kind: &Type<'_>,
    value: &Value,
    full: bool,
) -> Result<(), String> {
    let fits = match (kind, value) {
        (Type::Bool, Value::Bool(_)) | (Type::String, Value::String(_)) => true,
        (Type::Int, Value::Number(number)) => number.is_i64(),
        (Type::Optional(_), Value::Null) => !full,
        (Type::Optional(inner), _) => return check(interface, inner.inner(), value, full),
        (Type::Array(inner), Value::Array(values)) => {
            if full && values.is_empty() {
                return Err("nothing to check".into());
            }
            return values
                .iter()
                .try_for_each(|value| check(interface, inner.inner(), value, full));
        }
        (Type::Custom(name), _) => return check_custom(interface, name, value, full),
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{value} is not a {kind}")) }
}

fn check_custom(
    interface: &Interface<'_>,
    name: &str,
    value: &Value,
    full: bool,
) -> Result<(), String> {
    let custom = interface
        .custom_types()
        .find(|custom| custom.name().as_str() == name)
        .ok_or_else(|| format!("there is no type {name}"))?;
    match (custom, value) {
        (CustomType::Object(object), Value::Object(value)) => {
            let fields: Vec<Field<'_>> =
                object.fields().map(|field| (field.name().to_string(), field.ty())).collect();
            check_object(interface, &fields, value, full)
        }
        (CustomType::Enum(words), Value::String(word)) => {
            let known = words.variants().any(|known| known.name().as_str() == word);
            if known { Ok(()) } else { Err(format!("{word:?} is not a {name}")) }
        }
        _ => Err(format!("{value} is not a {name}")),
    }
}
