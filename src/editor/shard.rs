//! A share of an edit: the values of some of its facts, searched for an edit elsewhere.

use super::kept::say_where_it_is;
use super::prepared::Prepared;
use crate::base::{Error, Result, catch_device_error};
use crate::edit::method::Context;
use crate::edit::state::State;
use crate::edit::values;

impl Prepared {
    /// Searches the values of the editor's share of the facts and writes them to its output.
    /// Returns how many they are.
    ///
    /// # Errors
    ///
    /// No share or no output; as [`plan`](Prepared::plan).
    pub fn search_values(&self) -> Result<u64> {
        self.settings.run(|| self.search_values_here())
    }

    fn search_values_here(&self) -> Result<u64> {
        let settings = &self.settings;
        let (Some(_), Some(output)) = (settings.shard, &settings.output) else {
            let remedy = "give the editor a shard and an output";
            return Err(Error::refused("values of no share, or for no file", remedy));
        };
        self.opened.checkpoint.unchanged()?;
        let (_, state) = self.state()?; // what it refuses is refused before the search
        self.warn_of_room(&self.cost_from(state));
        let mut cache = self.open_cache()?;
        self.remark_known(cache.as_ref());
        let facts = self.own_facts();
        let search = self.shared_search();
        let moments = |l| self.moment(l);
        let searched = self.checked(|progress| {
            let context = self.context(&moments, cache.as_mut(), State::default());
            let mut context = Context { progress, ..context };
            catch_device_error(|| values::search_all(&mut context, &facts, &search))
        });
        searched.map_err(|e| say_where_it_is(e, cache.as_ref()))?;
        let cache = cache.expect("an output has a cache beside it");
        values::export(self.model(), &cache, &facts, &search, output)?;
        Ok(facts.len() as u64)
    }
}
