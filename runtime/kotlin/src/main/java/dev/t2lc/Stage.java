// The stages of a compile, with the numbers of t2lc.h.

package dev.t2lc;

/** What a compile is doing, in this order. */
public enum Stage {
    ENCODE(1),
    GENERATE(2),
    QUANTIZE(3),
    WRITE(4);

    final int number;

    Stage(int number) {
        this.number = number;
    }

    /** The stage of a number, null if there is none. */
    static Stage of(int number) {
        for (Stage stage : values()) {
            if (stage.number == number) {
                return stage;
            }
        }
        return null;
    }
}
