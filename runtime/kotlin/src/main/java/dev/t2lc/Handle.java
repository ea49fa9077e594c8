// The ownership of a native handle: freed once, by close or after its object has been collected.

package dev.t2lc;

import java.lang.ref.PhantomReference;
import java.lang.ref.Reference;
import java.lang.ref.ReferenceQueue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * A native handle of an object. Objects that were never closed are noticed when the next bundle is
 * opened or description compiled; java.lang.ref.Cleaner would do the same on a thread of its own, but
 * needs Java 9 and Android 13.
 */
final class Handle extends PhantomReference<Object> {
    /** What frees a handle of the library. */
    interface Free {
        void free(long handle);
    }

    private static final ReferenceQueue<Object> COLLECTED = new ReferenceQueue<>();
    // Keeps the references themselves from being collected before their objects.
    private static final Set<Handle> OPEN = ConcurrentHashMap.newKeySet();

    private final String what;
    private final Free free;
    private volatile long value;

    Handle(Object owner, String what, long value, Free free) {
        super(owner, COLLECTED);
        this.what = what;
        this.value = value;
        this.free = free;
        OPEN.add(this);
    }

    /** Frees what belongs to collected objects. */
    static void drain() {
        for (Reference<?> next = COLLECTED.poll(); next != null; next = COLLECTED.poll()) {
            ((Handle) next).close();
        }
    }

    /** How many are neither closed nor collected. */
    static int count() {
        return OPEN.size();
    }

    /**
     * The handle. It may be freed after this; the library refuses it then. Whoever reads memory of the
     * library through it synchronizes on this object, which close waits for.
     */
    long value() {
        long handle = value;
        if (handle == 0) {
            throw new IllegalStateException("the " + what + " is closed");
        }
        return handle;
    }

    /** Frees the handle, unless that has been done. */
    void close() {
        synchronized (this) {
            long handle = value;
            value = 0;
            if (handle != 0) {
                free.free(handle);
            }
        }
        OPEN.remove(this);
    }
}
