//! What another site needs to know and do to make this repository whole again.

use super::Repository;
use crate::error::Result;
use crate::id::BlobId;
use crate::store::Store;

impl Repository {
    /// Blobs whose bytes are lost here and whose content nothing else holds.
    pub fn lost_blobs(&self) -> Result<Vec<BlobId>> {
        if !self.index.has_damage()? {
            return Ok(Vec::new());
        }
        Ok(self.index.lost()?.into_iter().filter(|lost| !lost.replaced).map(|lost| lost.id).collect())
    }

    /// Records that were lost were put again: makes them durable, and what stands above them whole.
    pub fn settle_healed(&self) -> Result<()> {
        self.flush()?;
        if self.index.has_damage()? { self.index.update_taint() } else { Ok(()) }
    }
}
