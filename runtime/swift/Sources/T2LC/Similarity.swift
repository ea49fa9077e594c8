// The training tasks that a description is nearest to.

import CT2LC

/// How much a description resembles what the bundle was trained on.
public struct Similarity: Sendable, Equatable {
    /// A training task.
    public struct NearestTask: Sendable, Equatable, Identifiable {
        public let id: String
        /// Cosine to the nearest mean of the task's descriptions, at most 1.
        public let cosine: Float
    }

    /// Nearest first.
    public let tasks: [NearestTask]
    /// Whether it is as close to a training task as unseen real ones are, and no closer to a text
    /// that describes none; true where no training description is known.
    public let isFamiliar: Bool

    /// Copies what the handle has, and frees it.
    init(taking handle: OpaquePointer?) {
        tasks = (0..<t2lc_similarity_count(handle)).map { index in
            NearestTask(
                id: text(t2lc_similarity_task(handle, index)),
                cosine: t2lc_similarity_cosine(handle, index))
        }
        isFamiliar = t2lc_similarity_familiar(handle)
        t2lc_similarity_free(handle)
    }
}
