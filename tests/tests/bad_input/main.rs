//! Bad input: everything that a caller, a network or an operator can get wrong, one promise each.
//! Who enters: wrong credentials, broken bodies, slow and rude clients, wrong configurations, bent clocks.
//! What leaves: stable codes and clear words; the appliance stays up, and others are served meanwhile.

mod bodies;
mod certificates;
mod keys_and_scopes;
mod rude_clients;
mod starting;
mod time_and_space;
