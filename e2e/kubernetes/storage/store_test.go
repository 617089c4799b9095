package storage

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcdkubernetes "go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/utils/clock"

	"github.com/etcdshim/shim/e2e/kubernetes/internal/proc"
)

const (
	valuePrefix = "test!" // what the transformer puts before each stored value
	podPrefix   = "/pods/"
)

var (
	scheme   = newScheme()
	codecs   = serializer.NewCodecFactory(scheme)
	podGroup = schema.GroupResource{Resource: "pods"}
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(s))
	utilruntime.Must(examplev1.AddToScheme(s))
	return s
}

// errSynthetic is what a codec or transformer answers after setFailing(true).
var errSynthetic = errors.New("synthetic error")

// failable is a switch shared by the parts of the store that some cases break on purpose.
type failable struct{ failing atomic.Bool }

func (f *failable) setFailing(on bool) { f.failing.Store(on) }

type breakableCodec struct {
	runtime.Codec
	failable
}

func (c *breakableCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.failing.Load() {
		return nil, nil, errSynthetic
	}
	return c.Codec.Decode(data, defaults, into)
}

// switchTransformer delegates to a transformer that can be exchanged while the store uses it. etcd3's store keeps the one given to New in an
// unexported field, so this is how the cases reach it.
type switchTransformer struct {
	failable
	current atomic.Pointer[value.Transformer]
}

func newSwitchTransformer() *switchTransformer {
	s := &switchTransformer{}
	s.set(storagetesting.NewPrefixTransformer([]byte(valuePrefix), false))
	return s
}

func (s *switchTransformer) get() value.Transformer { return *s.current.Load() }

func (s *switchTransformer) set(next value.Transformer) { s.current.Store(&next) }

// replace installs next and returns the way back.
func (s *switchTransformer) replace(next value.Transformer) (revert func()) {
	before := s.get()
	s.set(next)
	return func() { s.set(before) }
}

func (s *switchTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if s.failing.Load() {
		return nil, false, errSynthetic
	}
	return s.get().TransformFromStorage(ctx, data, dataCtx)
}

func (s *switchTransformer) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return s.get().TransformToStorage(ctx, data, dataCtx)
}

// prefixStore and transformerStore are the two shapes in which upstream's functions ask to change the transformer.
type prefixStore struct {
	apistorage.Interface
	transformer *switchTransformer
}

func (s prefixStore) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	changed := *s.transformer.get().(*storagetesting.PrefixTransformer)
	return s.transformer.replace(modify(&changed))
}

type transformerStore struct {
	apistorage.Interface
	transformer *switchTransformer
}

func (s transformerStore) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return s.transformer.replace(modify(s.transformer.get()))
}

// fixture is a Kubernetes store of pods on a server of its own, with what the cases need around it.
type fixture struct {
	store       apistorage.Interface
	client      *clientv3.Client
	lists       *storagetesting.KubernetesRecorder
	reads       *storagetesting.KVRecorder
	codec       *breakableCodec
	transformer *switchTransformer
}

// newFixture opens the store on server and closes it with the test.
func newFixture(t *testing.T, server *proc.Server) *fixture {
	t.Helper()
	client, err := etcdkubernetes.New(clientv3.Config{Endpoints: []string{server.URL()}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // the server may be gone already
	f := &fixture{
		client:      client.Client,
		codec:       &breakableCodec{Codec: apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)},
		transformer: newSwitchTransformer(),
	}
	f.lists = storagetesting.NewKubernetesRecorder(client.Kubernetes)
	f.reads = storagetesting.NewKVRecorder(client.KV, f.lists)
	client.Kubernetes, client.KV = f.lists, f.reads

	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1 // the cases wait 30 s at most, less than a lease that is reused for a minute lives
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	versioner := apistorage.APIObjectVersioner{}
	store, err := etcd3.New(client, compactor, f.codec, newPod, newPodList, "", podPrefix, podGroup,
		f.transformer, leases, etcd3.NewDefaultDecoder(f.codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	f.store = store
	return f
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

func (f *fixture) prefixStore() prefixStore { return prefixStore{f.store, f.transformer} }

func (f *fixture) transformerStore() transformerStore {
	return transformerStore{f.store, f.transformer}
}

// unsafeDeleteStore is the store as kube-apiserver wraps it to delete corrupt objects.
func (f *fixture) unsafeDeleteStore() transformerStore {
	return transformerStore{etcd3.NewStoreWithUnsafeCorruptObjectDeletion(f.store, podGroup), f.transformer}
}

// cached puts kube-apiserver's watch cache before the store.
func (f *fixture) cached(t *testing.T) apistorage.Interface {
	t.Helper()
	cache, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             f.store,
		Versioner:           apistorage.APIObjectVersioner{},
		GroupResource:       podGroup,
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      podPrefix,
		KeyFunc: func(obj runtime.Object) (string, error) {
			return apistorage.NamespaceKeyFunc(podPrefix, obj)
		},
		GetAttrsFunc: apistorage.DefaultNamespaceScopedAttr,
		NewFunc:      newPod,
		NewListFunc:  newPodList,
		Codec:        f.codec,
		Clock:        clock.RealClock{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Stop)
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	defer cancel()
	if err := cache.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	delegator := cacher.NewCacheDelegator(cache, f.store)
	t.Cleanup(delegator.Stop)
	return delegator
}

// corruptError is etcd3's unexported error for an object that cannot be transformed, made the only exported way there is.
func corruptError(t *testing.T) error {
	t.Helper()
	broken := newSwitchTransformer()
	broken.setFailing(true)
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(broken).TransformFromStorage(context.Background(), nil, nil)
	if err == nil {
		t.Fatal("a broken transformer gave no error")
	}
	return err
}

// checkStored ensures that what lies in the server is the object without the fields that only answers carry.
func (f *fixture) checkStored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	resp, err := f.client.KV.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 {
		t.Fatalf("key %s: %d records", key, len(resp.Kvs))
	}
	obj, err := runtime.Decode(f.codec, resp.Kvs[0].Value[len(valuePrefix):])
	if err != nil {
		t.Fatalf("key %s: %v", key, err)
	}
	if pod := obj.(*example.Pod); pod.ResourceVersion != "" || pod.GetSelfLink() != "" {
		t.Errorf("key %s is stored with resourceVersion %q, selfLink %q", key, pod.ResourceVersion, pod.GetSelfLink())
	}
}

// increaseRV moves the revision by a write that is no pod.
func (f *fixture) increaseRV(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	resp, err := f.client.KV.Put(ctx, "increaseRV", "ok")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// compact compacts at resourceVersion as kube-apiserver does, and waits until the store has noticed where it watches for that.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rv, err := apistorage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	// The first call loses the compare when somebody compacted before, and learns the version of the compaction key by it.
	version, _, compacted, err := etcd3.Compact(ctx, f.client, 0, int64(rv))
	if err == nil && compacted != int64(rv) {
		_, _, compacted, err = etcd3.Compact(ctx, f.client, version, int64(rv))
	}
	if err != nil || compacted != int64(rv) {
		t.Fatalf("compact at %d: compacted at %d, %v", rv, compacted, err)
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for f.store.CompactRevision() != int64(rv) {
		select {
		case <-ctx.Done():
			t.Fatalf("the store knows of compaction at %d, not at %d", f.store.CompactRevision(), rv)
		case <-tick.C:
		}
	}
}

// maxPage is the largest page that the store asks a server for.
const maxPage = 10000

// checkCalls ensures that a list cost the requests it should: one, or, with a limit, as many as it takes when each page is twice the one before.
func (f *fixture) checkCalls(t *testing.T, pageSize, wantObjects uint64) {
	t.Helper()
	objects := f.transformer.get().(*storagetesting.PrefixTransformer).GetReadsAndReset()
	if objects != wantObjects {
		t.Errorf("%d objects read, want %d", objects, wantObjects)
	}
	want := uint64(1)
	if pageSize != 0 {
		for seen, page := uint64(1), pageSize; seen < wantObjects; want++ {
			page = min(page*2, maxPage)
			seen += page
		}
	}
	if calls := f.reads.GetReadsAndReset() + f.reads.GetStreamReadsAndReset(); calls != want {
		t.Fatalf("%d requests, want %d", calls, want)
	}
}

// podKeys lists the keys of all pods, for the estimate of their sizes.
func (f *fixture) podKeys(ctx context.Context) ([]string, error) {
	resp, err := f.client.KV.Get(ctx, podPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}
