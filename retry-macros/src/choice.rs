//! The options with a fixed set of values: `isolation`, `jitter`, `unknown_commit`, `queue`, `damping`,
//! `begin`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::LitStr;

use crate::arg::Arg;
use crate::error::Errors;
use crate::value::PolicyField;

/// A value that the attribute states, and its token for errors.
pub(crate) struct Choice<T> {
    pub(crate) value: T,
    pub(crate) token: LitStr,
}

/// An option's set of values.
pub(crate) trait Choices: Copy + 'static {
    /// Each value with its name in the attribute.
    const ALL: &'static [(&'static str, Self)];

    /// The path of the variant in the runtime.
    fn path(self, private: &TokenStream) -> TokenStream;
}

/// Declares enums whose variants have a name in the attribute. The runtime has enums and variants of the same names.
macro_rules! choices {
    ($($name:ident { $($variant:ident = $word:literal),* })*) => {$(
        #[derive(Clone, Copy, PartialEq)]
        pub(crate) enum $name {
            $($variant),*
        }

        impl Choices for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),*];

            fn path(self, private: &TokenStream) -> TokenStream {
                match self {
                    $(Self::$variant => quote!(#private::$name::$variant)),*
                }
            }
        }
    )*};
}

choices! {
    Isolation { ReadCommitted = "read committed", RepeatableRead = "repeatable read", Serializable = "serializable" }
    Jitter { Full = "full", Equal = "equal", None = "none" }
    UnknownCommit { Fail = "fail", Retry = "retry", Resolve = "resolve", Token = "token" }
    Queue { Process = "process", Server = "server" }
    Damping { On = "on", Off = "off" }
    Begin { Awaited = "awaited", Pipelined = "pipelined" }
}

impl<T: Choices> Choice<T> {
    /// Reads one of the names in quotes.
    pub(crate) fn read(arg: &Arg, errors: &mut Errors) -> Option<Self> {
        if let Some(token) = arg.string() {
            let text = token.value();
            if let Some((_, value)) = T::ALL.iter().find(|(word, _)| *word == text) {
                return Some(Self { value: *value, token: token.clone() });
            }
        }
        let words: Vec<_> = T::ALL.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
        errors.refuse(arg, format_args!("expected `{}` to be one of {}", arg.key, words.join(", ")))
    }
}

impl<T: Choices> PolicyField for Choice<T> {
    fn to_field(&self, private: &TokenStream) -> TokenStream {
        self.value.path(private)
    }
}

/// Reads an isolation level. Refuses the one that PostgreSQL treats as another.
pub(crate) fn isolation(arg: &Arg, errors: &mut Errors) -> Option<Choice<Isolation>> {
    if arg.string().is_some_and(|level| level.value() == "read uncommitted") {
        let message = "PostgreSQL runs `read uncommitted` as `read committed`; write `\"read committed\"`";
        return errors.refuse(arg, message);
    }
    Choice::read(arg, errors)
}
