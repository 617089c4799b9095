// Package oracle compares shim with real etcd 3.7.3, answer for answer.
//
// Its nouns:
//
//   - A Step is one call, or a kill and restart of the server, written in one line. A
//     Script is a list of steps; it begins on empty servers and says everything
//     that is asked of them.
//   - A Side is one of the two servers with what a script has left there: watch
//     streams, tokens, ids that the server chose.
//   - An Answer is all that a client sees of a step: code, message, header and
//     trailer, every message, and what the watch streams have yielded since.
//   - A Symbol stands in a script for a number that only the server knows: a
//     lease's id, a member's id, the present revision. Each side puts in its own; in its
//     answers the symbol is put back, so that answers are compared exactly.
//   - A Mask is a field of a message in which two correct servers differ. It is
//     still compared, by a rule of its own.
//   - An Explained difference is one that is kept on purpose, with its reason.
//
// A sequence: the generator makes a script from the seed and the sequence's
// number, without a model of the answers; both servers are started on empty
// directories, with the same flags and the same peer URL (so that their ids are
// equal); each side runs the script by itself, as fast as it can; then the answers
// are compared, step by step, and the first step that differs ends it. A difference is
// shrunk by leaving steps out until none can be, and printed as a script.
//
// Watches: after each step that may write, each side waits until its streams have
// caught up, so that messages belong to the step that caused them. A stream of the
// past is waited for by its progress answer, which needs every watch to have
// caught up; a stream of the future, where a watch may begin at a revision that has not come
// and progress is never told, by the event of a key of the harness's own, which
// is left out of what is compared. Nothing sleeps.
//
// A run is made of parts, whose sequences, and so their number, are decided by the seed. The
// parts of a full run that have passed are kept in a ledger, so that it can be
// interrupted. What no sequence asks for stands in notAsked, with the reason, and is printed
// by every run.
//
// The oracle is tested itself: each field of each answer is changed, on paper (TestCorruptionIsReported), in
// answers of real servers (TestCorruptedShimIsReported) and on the wire (TestTamperedShimIsReported), and
// must be reported.
package oracle
