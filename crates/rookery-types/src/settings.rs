//! Settings that carry their own description, so that the reference for operators is made from the types.

/// One setting, as its type's source says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the configuration file.
    pub name: &'static str,
    /// Its doc comment, a line for each.
    pub doc: &'static [&'static str],
    /// Its type in Rust's words.
    pub kind: &'static str,
}

impl Setting {
    /// The doc comment as one line.
    pub fn text(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

/// Defines a struct of settings, all of whose fields have doc comments, and its constant `SETTINGS` that lists them.
#[macro_export]
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($serde:tt)*)])?
                $field_visibility:vis $field:ident: $kind:ty,
            )+
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)*)])?
                $field_visibility $field: $kind,
            )+
        }

        impl $name {
            /// The settings as this source describes them.
            $visibility const SETTINGS: &'static [$crate::Setting] = &[
                $($crate::Setting {
                    name: stringify!($field),
                    doc: &[$($doc),+],
                    kind: stringify!($kind),
                },)+
            ];
        }
    };
}

#[cfg(test)]
mod tests {
    settings! {
        /// Two.
        #[derive(Default)]
        struct Two {
            /// The first,
            /// in two lines.
            first: Vec<String>,
            /// The second.
            pub second: u64,
        }
    }

    #[test]
    fn a_struct_tells_its_fields_docs_and_types() {
        let two = Two::default();
        assert_eq!((two.first.len(), two.second), (0, 0));
        let [first, second] = Two::SETTINGS else { panic!("{:?}", Two::SETTINGS) };
        assert_eq!((first.name, first.text().as_str()), ("first", "The first, in two lines."));
        assert_eq!((first.kind, second.kind), ("Vec<String>", "u64"));
    }
}
