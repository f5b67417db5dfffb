//! The cases of files, for measuring.

use std::collections::BTreeSet;
use std::path::Path;

use super::Editor;
use crate::base::{Error, Remedy, Result};
use crate::data::broken::OnBroken;
use crate::data::{Case, cases};

impl Editor {
    /// The cases of files, in any form that [`request`](crate::data::request) knows, one after
    /// another; records that cannot be used are warned of where they are skipped.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; a record that cannot be used, unless such are skipped; two of
    /// one id.
    pub fn cases<P: AsRef<Path>>(&self, files: &[P]) -> Result<Vec<Case>> {
        let (mut all, mut ids) = (Vec::new(), BTreeSet::new());
        for file in files.iter().map(AsRef::as_ref) {
            for case in cases(file)? {
                match case {
                    Ok(case) => {
                        if !ids.insert(case.id.clone()) {
                            let what = format!("the id {:?} is in an earlier file too", case.id);
                            let remedy = "give each record an id of its own";
                            return Err(Error::input(file, "id", what, remedy));
                        }
                        all.push(case);
                    }
                    Err(broken) if self.settings.on_broken == OnBroken::Skip => {
                        let what = format!("{}: skipped: {}", broken.id, broken.reason());
                        self.settings.progress.warn(&what);
                    }
                    Err(broken) => {
                        let remedy = Remedy::from("mend the record, or skip such records")
                            .option("on_broken", Some("skip"));
                        let what = format!("{}: {}", broken.id, broken.reason());
                        return Err(Error::input(file, "record", what, remedy));
                    }
                }
            }
        }
        Ok(all)
    }
}
