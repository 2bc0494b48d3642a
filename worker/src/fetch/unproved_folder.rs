//! A class folder whose manifest is missing or proves nothing. It is complete if the origin's tar
//! has the length that the folder's files make.

use shared::outcome::{Outcome, Published};

use crate::{
    fetch::{
        attempt::Attempt,
        origin_proof::NotProved,
        unfinished::{Unfinished, conflict},
    },
    source::Source,
    storage::existing::{self, Unproved},
};

impl Attempt<'_> {
    /// Verifies the folder by the length of the tar that the origin announces. Then gives it a
    /// manifest, unless it is another user's: a manifest there proves nothing. Otherwise returns
    /// the reason.
    pub(super) async fn prove_folder(&self, unproved: Unproved) -> Result<Outcome, Unfinished> {
        let proved = self
            .prove(|source| {
                let _local = self.tar.progress.locally();
                self.adopt_if_whole(source, unproved)
            })
            .await?;
        proved.map_err(|why| match why {
            NotProved::Differs(why) => conflict(&format!(
                "{unproved}, and {why} \
                 (--existing replace downloads it anew, --existing trust takes it as it is)"
            )),
            NotProved::Refused(error) => {
                conflict(&format!("{unproved}, and cannot be proved ({error})"))
            }
        })
    }

    /// Gives the folder a manifest if the sizes of its files add up to the tar; the inner error is
    /// why they do not.
    fn adopt_if_whole(
        &self,
        source: &Source,
        unproved: Unproved,
    ) -> Result<Result<Outcome, String>, Unfinished> {
        let wnid = self.wnid;
        let Some(bytes) = source.length else {
            return Ok(Err("the origin does not say how long the tar is".to_owned()));
        };
        let folder = self.context.target.class_folder(wnid);
        let files = match existing::compare_with_tar_length(&folder, bytes)
            .map_err(self.storage("read the folder"))?
        {
            Ok(files) => files,
            Err(why) => return Ok(Err(format!("is not the origin's tar, because {why}"))),
        };
        if unproved == Unproved::OfAnotherUser {
            tracing::info!(%wnid, "the folder is another user's, and is as long as the whole tar");
            return Ok(Ok(Outcome::Skipped(Published { files, bytes })));
        }
        let manifest = existing::adopt(&folder, wnid, &self.context.job.run_id, source)
            .map_err(self.storage("adopt the folder"))?;
        tracing::info!(%wnid, "adopted: the folder is the whole tar");
        Ok(Ok(Outcome::Skipped(manifest.published())))
    }
}
