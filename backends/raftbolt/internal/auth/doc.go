// Package auth knows users, roles, what roles permit, passwords and tokens. It has
// no goroutine and no clock, and knows neither store nor log.
//
// # Nouns
//
//   - A [State] is users, roles and whether authentication is on, at one auth
//     revision. It is immutable: readers take one and ask it whatever they need to
//     know about one request.
//   - A [Change] is what an administrator asks for. [State.Apply] makes the next
//     State of it, and tells what to write into the buckets of etcd's schema and
//     whose tokens end. It is a function of State and Change alone, so that equal
//     logs give equal states.
//   - [Tokens] give tokens and tell whose they are. Simple tokens are assigned by
//     apply, so that each member knows them; signed ones (JWT) speak for themselves.
//   - A [Hasher] hashes and compares passwords, a few at a time.
//
// # Duties of the caller
//
//  1. At start, and after a snapshot was installed, [Load] the State from the store.
//  2. From apply, and from nowhere else, call State.Apply, Tokens.Assign,
//     Tokens.EndUser and Tokens.EndAll. Write what Apply returns in one transaction,
//     publish the State after it was committed and before the next entry is applied.
//  3. Hash a password before it is proposed. A password is never proposed, stored or
//     logged.
//  4. Check a write at apply, with the caller of its proposal. Check a read on a
//     State that was taken after the View it reads, and refuse it when the auth
//     revision is not the caller's.
//
// # What is etcd's
//
// Rules, errors, records and increments of the auth revision are those of etcd 3.7.3
// (server/auth/store.go), three oddities included: enabling makes no auth revision;
// granting a permission on a range changes the one that is there only if it is the
// first on that key, and else is added beside it; a range that is empty because its
// end is not above its key is checked as its key alone. In the last etcd's answer
// may depend on the shape of its interval tree.
//
// # Limits
//
// Users and roles are bounded by what administrators make. Each change costs a copy
// of the table of users or roles. Simple tokens are bounded by maxSimpleTokens,
// comparisons of passwords under way and waiting by hashSlots and maxHashWaiters.
package auth
