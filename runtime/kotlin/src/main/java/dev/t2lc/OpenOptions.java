// How a bundle is opened.

package dev.t2lc;

import java.util.Objects;

/** How a bundle is opened. Each method changes one option and returns the same object. */
public final class OpenOptions {
    Backend backend = Backend.AUTO;
    int threads;
    byte[] provider;

    public OpenOptions backend(Backend backend) {
        this.backend = Objects.requireNonNull(backend, "backend");
        return this;
    }

    /** Threads of the exact backend; 0, the default, for as many as the system offers, at most 8. */
    public OpenOptions threads(int threads) {
        if (threads < 0) {
            throw new IllegalArgumentException("threads is " + threads + ", expected 0 or more");
        }
        this.threads = threads;
        return this;
    }

    /** ONNX Runtime's execution provider by name, for example {@code nnapi}; null for the best one. */
    public OpenOptions provider(String provider) {
        this.provider = provider == null ? null : T2lcNative.utf8("provider", provider);
        return this;
    }
}
