//! The options of the attribute: a table with a row for each.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{Expr, LitStr, Path};

use crate::arg::Arg;
use crate::choice::{self, Begin, Choice, Damping, Isolation, Jitter, Queue, UnknownCommit};
use crate::error::Errors;
use crate::value::{self, Count, Flag, PolicyField, Time};

/// Declares the options. A row has, in this order:
///
/// - the name in the attribute,
/// - the field in [`Args`], and the type of the value,
/// - the function that reads the value,
/// - if the runtime's `Policy` has a field of this name: `plain` for a `T`, `optional` for an `Option<T>`.
macro_rules! options {
    ($($name:literal $field:ident: $kind:ty = $read:path $(=> $policy:ident)?;)*) => {
        /// The names of all options.
        pub(crate) const OPTIONS: &[&str] = &[$($name),*];

        /// The options that the attribute states. The others are `None`, and have the runtime's defaults.
        #[derive(Default)]
        pub(crate) struct Args {
            $(pub(crate) $field: Option<$kind>,)*
            /// Whether there was an error. The options without one may then contradict each other.
            pub(crate) faulty: bool,
        }

        impl Args {
            /// Sets an option. `None` if its value is faulty.
            pub(crate) fn set(&mut self, arg: &Arg, errors: &mut Errors) -> Option<()> {
                match arg.key.to_string().as_str() {
                    $($name => self.$field = Some($read(arg, errors)?),)*
                    _ => return None,
                }
                Some(())
            }

            /// The fields of the runtime's `Policy` that the attribute states.
            fn policy_fields(&self, private: &TokenStream) -> TokenStream {
                let mut fields = TokenStream::new();
                $($(
                    if let Some(value) = &self.$field {
                        let value = $policy(value, private);
                        fields.extend(quote!($field: #value,));
                    }
                )?)*
                fields
            }
        }
    };
}

/// A field of type `T`.
fn plain(value: &impl PolicyField, private: &TokenStream) -> TokenStream {
    value.to_field(private)
}

/// A field of type `Option<T>`.
fn optional(value: &impl PolicyField, private: &TokenStream) -> TokenStream {
    let value = value.to_field(private);
    quote!(::core::option::Option::Some(#value))
}

options! {
    "retries" retries: Count = Count::read => plain;
    "retry_for" retry_for: Time = Time::read => optional;
    "deadlock_retries" deadlock_retries: Count = Count::read => optional;
    "isolation" isolation: Choice<Isolation> = choice::isolation => optional;
    "read_only" read_only: Flag = Flag::read => plain;
    "deferrable" deferrable: Flag = Flag::read => plain;
    "base_delay" base_delay: Time = Time::read => plain;
    "max_delay" max_delay: Time = Time::read => optional;
    "jitter" jitter: Choice<Jitter> = Choice::read => plain;
    "statement_timeout" statement_timeout: Time = Time::read_timeout => optional;
    "lock_timeout" lock_timeout: Time = Time::read_timeout => optional;
    "idle_timeout" idle_timeout: Time = Time::read_timeout => optional;
    "deadline" deadline: Time = Time::read => optional;
    "unknown_commit" unknown_commit: Choice<UnknownCommit> = Choice::read => plain;
    "retry_if" retry_if: Expr = value::callable;
    "retry_on" retry_on: Vec<LitStr> = value::sqlstates => plain;
    "queue_by" queue_by: Vec<Expr> = value::keys;
    "queue" queue: Choice<Queue> = Choice::read => plain;
    "escalate_after" escalate_after: Count = Count::read_from_one => optional;
    "damping" damping: Choice<Damping> = Choice::read => plain;
    "begin" begin: Choice<Begin> = Choice::read => optional;
    "early_release" early_release: Flag = Flag::read => plain;
    "durable" durable: Flag = Flag::read => plain;
    "independent" independent: Flag = Flag::read => plain;
    "source" source: Expr = value::source;
    "within" within: Ident = value::ident;
    "name" name: LitStr = value::text;
    "allow_mut" allow_mut: Flag = Flag::read;
    "undocumented" undocumented: Flag = Flag::read;
    "crate" krate: Path = value::path;
}

impl Args {
    /// The runtime's `Policy`, with its defaults for options that the attribute does not state.
    pub(crate) fn policy(&self, private: &TokenStream) -> TokenStream {
        let fields = self.policy_fields(private);
        let policy = if fields.is_empty() || self.faulty {
            quote!(#private::Policy::DEFAULT)
        } else {
            quote!(#private::Policy { #fields ..#private::Policy::DEFAULT })
        };
        if self.retry_if.is_some() { quote!(#private::with_retry_if(#policy)) } else { policy }
    }
}
