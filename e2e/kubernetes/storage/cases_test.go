package storage

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/features"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/component-base/featuregate"
)

// suiteCase calls one of upstream's functions. TestSuiteIsComplete fails when one of them is called by no case.
type suiteCase struct {
	name  string
	gates map[featuregate.Feature]bool // as upstream's own test of the function sets them
	flags []string                     // further flags of the server
	run   func(ctx context.Context, t *testing.T, f *fixture)
}

var (
	unsafeDeletion = map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: true}
	// The server's own progress marks come each 10 minutes unless told otherwise, too late for the cases that wait for one.
	quickProgress = []string{"--watch-progress-notify-interval=1s"}
)

func cases() []suiteCase {
	var all []suiteCase
	for _, part := range [][]suiteCase{writeCases(), corruptionCases(), listCases(), updateCases(), watchCases(), watchListCases()} {
		all = append(all, part...)
	}
	return all
}

func writeCases() []suiteCase {
	return []suiteCase{
		{name: "Create", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCreate(ctx, t, f.store, f.checkStored)
		}},
		{name: "CreateWithTTL", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCreateWithTTL(ctx, t, f.store)
		}},
		{name: "CreateWithKeyExist", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCreateWithKeyExist(ctx, t, f.store)
		}},
		{name: "Get", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGet(ctx, t, f.store)
		}},
		{name: "UnconditionalDelete", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestUnconditionalDelete(ctx, t, f.store)
		}},
		{name: "ConditionalDelete", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestConditionalDelete(ctx, t, f.store)
		}},
		{name: "DeleteWithSuggestion", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestion(ctx, t, f.store)
		}},
		{name: "DeleteWithSuggestionAndConflict", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndConflict(ctx, t, f.store)
		}},
		{name: "DeleteWithConflict", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflict(ctx, t, f.store)
		}},
		{name: "DeleteWithSuggestionOfDeletedObject", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(ctx, t, f.store)
		}},
		{name: "ValidateDeletionWithSuggestion", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithSuggestion(ctx, t, f.store)
		}},
		{name: "ValidateDeletionWithOnlySuggestionValid", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(ctx, t, f.store)
		}},
		{name: "PreconditionalDeleteWithSuggestion", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithSuggestion(ctx, t, f.store)
		}},
		{name: "PreconditionalDeleteWithOnlySuggestionPass", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(ctx, t, f.store)
		}},
		{name: "KeySchema", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestKeySchema(ctx, t, f.store)
		}},
	}
}

// corruptionCases have objects that cannot be decoded or transformed.
func corruptionCases() []suiteCase {
	return []suiteCase{
		{name: "DeleteWithConflictAndMissingExpectedTransformOrDecodeError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, f.store, f.codec.setFailing)
		}},
		{name: "DeleteExpectedTransformError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f.store, f.transformer.setFailing)
		}},
		{name: "DeleteExpectedDecodeError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f.store, f.codec.setFailing)
		}},
		{name: "DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, f.store)
		}},
		{name: "GetListWithErrorAggregation", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListWithErrorAggregation(ctx, t, f.unsafeDeleteStore(), corruptError(t))
		}},
		{
			name:  "GetListWithoutErrorAggregation",
			gates: map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: false},
			run: func(ctx context.Context, t *testing.T, f *fixture) {
				storagetesting.RunTestGetListWithoutErrorAggregation(ctx, t, f.transformerStore(), corruptError(t))
			},
		},
		{name: "TransformationFailure", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestTransformationFailure(ctx, t, f.prefixStore())
		}},
		{name: "WatchError", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchError(ctx, t, f.prefixStore())
		}},
		{name: "WatchErrorIsBlockingFurtherEvents", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, f.prefixStore())
		}},
		{name: "WatchWithUnsafeDelete", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, f.transformerStore(), corruptError(t))
		}},
	}
}

func listCases() []suiteCase {
	return []suiteCase{
		{name: "List", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestList(ctx, t, f.store, f.compact, false, f.lists)
		}},
		{name: "ListPaging", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListPaging(ctx, t, f.store)
		}},
		{name: "ConsistentList", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(ctx, t, f.store, f.increaseRV, false, true, false)
		}},
		{name: "GetListNonRecursive", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, f.increaseRV, f.store)
		}},
		{name: "GetListRecursivePrefix", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListRecursivePrefix(ctx, t, f.store)
		}},
		{name: "ListContinuation", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuation(ctx, t, f.store, f.checkCalls)
		}},
		{
			name: "ListPaginationRareObject",
			// On, the store reads the compaction key too, and the count of requests would be off by it.
			gates: map[featuregate.Feature]bool{features.ListFromCacheSnapshot: false},
			run: func(ctx context.Context, t *testing.T, f *fixture) {
				storagetesting.RunTestListPaginationRareObject(ctx, t, f.store, f.checkCalls)
			},
		},
		{name: "ListContinuationWithFilter", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, f.store, f.checkCalls)
		}},
		{name: "ListInconsistentContinuation", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, f.store, f.compact)
		}},
		{name: "ListResourceVersionMatch", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, f.prefixStore())
		}},
		{name: "NamespaceScopedList", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestNamespaceScopedList(ctx, t, f.store)
		}},
		{
			name: "CompactRevision",
			// On, the store watches the compaction key and so sees compactions of others.
			gates: map[featuregate.Feature]bool{features.ListFromCacheSnapshot: true},
			run: func(ctx context.Context, t *testing.T, f *fixture) {
				storagetesting.RunTestCompactRevision(ctx, t, f.store, f.increaseRV, f.compact)
			},
		},
		{name: "StatsWithSizes", run: func(ctx context.Context, t *testing.T, f *fixture) {
			if err := f.store.EnableResourceSizeEstimation(f.podKeys); err != nil {
				t.Fatal(err)
			}
			storagetesting.RunTestStats(ctx, t, f.store, f.codec, f.transformer, true)
		}},
		{name: "Stats", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestStats(ctx, t, f.store, f.codec, f.transformer, false)
		}},
	}
}

func updateCases() []suiteCase {
	return []suiteCase{
		{name: "GuaranteedUpdate", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, f.prefixStore(), f.checkStored)
		}},
		{name: "GuaranteedUpdateWithTTL", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithTTL(ctx, t, f.store)
		}},
		{name: "GuaranteedUpdateChecksStoredData", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, f.prefixStore())
		}},
		{name: "GuaranteedUpdateWithConflict", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithConflict(ctx, t, f.store)
		}},
		{name: "GuaranteedUpdateWithSuggestionAndConflict", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(ctx, t, f.store)
		}},
	}
}

func watchCases() []suiteCase {
	return []suiteCase{
		{name: "Watch", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatch(ctx, t, f.store)
		}},
		{name: "ClusterScopedWatch", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestClusterScopedWatch(ctx, t, f.store)
		}},
		{name: "NamespaceScopedWatch", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestNamespaceScopedWatch(ctx, t, f.store)
		}},
		{name: "DeleteTriggerWatch", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteTriggerWatch(ctx, t, f.store)
		}},
		{name: "WatchFromZero", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromZero(ctx, t, f.store, f.compact)
		}},
		{name: "WatchFromNonZero", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromNonZero(ctx, t, f.store)
		}},
		{name: "DelayedWatchDelivery", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDelayedWatchDelivery(ctx, t, f.store)
		}},
		{name: "WatchContextCancel", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchContextCancel(ctx, t, f.store)
		}},
		{name: "WatcherTimeout", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatcherTimeout(ctx, t, f.store)
		}},
		{name: "WatchDeleteEventObjectHaveLatestRV", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(ctx, t, f.store)
		}},
		{name: "WatchInitializationSignal", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchInitializationSignal(ctx, t, f.store)
		}},
		{name: "OptionalTestProgressNotify", flags: quickProgress, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunOptionalTestProgressNotify(ctx, t, f.store, f.increaseRV)
		}},
		{name: "WatchDispatchBookmarkEvents", flags: quickProgress, run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, f.store, false)
		}},
		// Bookmarks between events come from the watch cache alone, so this one runs behind it.
		{name: "OptionalWatchBookmarksWithCorrectResourceVersion", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, f.cached(t))
		}},
	}
}

// watchListCases begin a watch with the objects there are.
func watchListCases() []suiteCase {
	return []suiteCase{
		{name: "SendInitialEventsBackwardCompatibility", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunSendInitialEventsBackwardCompatibility(ctx, t, f.store)
		}},
		{name: "WatchSemantics", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunWatchSemantics(ctx, t, f.store)
		}},
		{
			name:  "WatchSemanticsWithConcurrentDecode",
			gates: map[featuregate.Feature]bool{features.ConcurrentWatchObjectDecode: true},
			run: func(ctx context.Context, t *testing.T, f *fixture) {
				storagetesting.RunWatchSemantics(ctx, t, f.store)
			},
		},
		{name: "WatchSemanticInitialEventsExtended", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunWatchSemanticInitialEventsExtended(ctx, t, f.store)
		}},
		{name: "WatchListMatchSingle", run: func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunWatchListMatchSingle(ctx, t, f.store)
		}},
	}
}
