// The backends, with the numbers of t2lc.h.

package dev.t2lc;

/** What computes the networks. */
public enum Backend {
    /** {@link #EXACT} unless bundle or provider need another one. */
    AUTO(0),
    /** The same bytes on every machine. */
    EXACT(1),
    /** tract; not in every build. */
    TRACT(2),
    /** ONNX Runtime; not in every build. */
    ORT(3);

    final int number;

    Backend(int number) {
        this.number = number;
    }
}
