// The progress callback.

package dev.t2lc;

/** Is told how far a compile is. */
public interface Progress {
    /**
     * Called on the thread that compiles: done of total in one stage. Returning false cancels, and the
     * compile throws {@link T2lcException#CANCELLED}; what this throws cancels too and comes out of the
     * compile instead. It must neither close the compiler nor wait for a thread that closes it.
     */
    boolean report(Stage stage, long done, long total);
}
