//! A function keeps its visibility, `unsafe`, `extern`, attributes and inner attributes.

#![deny(unsafe_op_in_unsafe_fn, unused, unused_qualifications)]
#![allow(clippy::double_must_use)]

pub mod bank {
    pub mod accounts {
        use retry_runtime::{Error, Transaction, transactional};

        /// Documented.
        #[doc(alias = "poke")]
        #[must_use]
        #[inline]
        #[transactional]
        #[allow(clippy::unused_async)]
        #[deprecated = "as an example"]
        #[cfg_attr(all(), expect(unused_variables))]
        pub(in crate::bank) async fn touch(tx: &Transaction<'_>, id: i64) -> Result<u32, Error> {
            #![allow(unused_mut)]
            let mut attempt = tx.attempt();
            Ok(attempt)
        }

        /// # Safety
        /// None is needed.
        #[transactional]
        pub async unsafe fn peek(tx: &mut Transaction<'_>, id: *const i64) -> Result<i64, Error> {
            let id = unsafe { *id };
            tx.execute("SELECT $1", &[&id]).await?;
            Ok(id)
        }

        #[transactional]
        pub async extern "Rust" fn exported(_: &Transaction<'_>) -> Result<(), Error> {
            Ok(())
        }

        pub struct Branch;

        impl Branch {
            #[transactional]
            pub async fn main(&self, _: &Transaction<'_>) -> Result<(), Error> {
                Ok(())
            }
        }

        #[cfg(any())]
        #[transactional]
        async fn gone(_: &Missing) -> Result<(), Missing> {}
    }

    #[allow(deprecated)]
    pub async fn all(pool: &deadpool_postgres::Pool) -> Result<u32, retry_runtime::Error> {
        accounts::exported(pool).await?;
        accounts::Branch.main(pool).await?;
        unsafe { accounts::peek(pool, &1).await? };
        accounts::touch(pool, 1).await
    }
}

fn main() {
    let _ = bank::all;
}
