use retry_runtime::{Error, Transaction, transactional};

use std::pin::Pin;

struct Bank;

// The output of `#[async_trait]` for `async fn touch(&self, tx: &mut Transaction<'_>) -> Result<(), Error>`.
impl Bank {
    #[transactional]
    fn touch<'life0, 'life1, 'async_trait>(
        &'life0 self,
        _tx: &'life1 mut Transaction<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'async_trait>> {
        Box::pin(async move { Ok(()) })
    }
}

fn main() {}
