// The training tasks that a description is nearest to.

package dev.t2lc;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** How much a description resembles what the bundle was trained on. Immutable. */
public final class Similarity {
    /** A training task. */
    public static final class Task {
        private final String id;
        private final float cosine;

        Task(String id, float cosine) {
            this.id = id;
            this.cosine = cosine;
        }

        public String id() {
            return id;
        }

        /** Cosine to the nearest mean of the task's descriptions, at most 1. */
        public float cosine() {
            return cosine;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Task
                    && id.equals(((Task) other).id)
                    && Float.compare(cosine, ((Task) other).cosine) == 0;
        }

        @Override
        public int hashCode() {
            return 31 * id.hashCode() + Float.floatToIntBits(cosine);
        }

        @Override
        public String toString() {
            return id + " (" + cosine + ")";
        }
    }

    private final List<Task> tasks;
    private final boolean familiar;

    private Similarity(List<Task> tasks, boolean familiar) {
        this.tasks = tasks;
        this.familiar = familiar;
    }

    /** Copies what the handle has, and frees it. */
    static Similarity take(long handle) {
        try {
            int count = T2lcNative.similarityCount(handle);
            List<Task> tasks = new ArrayList<>(count);
            for (int i = 0; i < count; i++) {
                String id = T2lcNative.text(T2lcNative.similarityTask(handle, i));
                tasks.add(new Task(id, T2lcNative.similarityCosine(handle, i)));
            }
            boolean familiar = T2lcNative.similarityFamiliar(handle);
            return new Similarity(Collections.unmodifiableList(tasks), familiar);
        } finally {
            T2lcNative.freeSimilarity(handle);
        }
    }

    /** Nearest first. */
    public List<Task> tasks() {
        return tasks;
    }

    /**
     * Whether it is as close to a training task as unseen real ones are, and no closer to a text that
     * describes none; true where no training description is known.
     */
    public boolean familiar() {
        return familiar;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Similarity
                && tasks.equals(((Similarity) other).tasks)
                && familiar == ((Similarity) other).familiar;
    }

    @Override
    public int hashCode() {
        return 31 * tasks.hashCode() + (familiar ? 1 : 0);
    }

    @Override
    public String toString() {
        return tasks + (familiar ? "" : ", unlike them all");
    }
}
