//! One field of a JSON object.

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// The string in the field `name` of the JSON object `line`. Skips all other fields without keeping them.
///
/// # Errors
/// A message, if the line is no JSON object, has no such field or no string in it.
pub fn string(line: &str, name: &str) -> Result<String, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let text = json.deserialize_map(Field(name)).and_then(|text| json.end().map(|()| text));
    // serde_json counts lines inside of `line`, always 1.
    text.map_err(|e| e.to_string().replace(" at line 1 column ", " at byte "))
}

struct Field<'a>(&'a str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object with the field {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(
                    map.next_value::<String>()
                        .map_err(|e| A::Error::custom(format!("field {:?}: {e}", self.0)))?,
                );
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        found.ok_or_else(|| A::Error::custom(format!("expected a field {:?} with text, found none", self.0)))
    }
}
