package org.palmtop.core.engine;

import org.palmtop.core.bundle.Manifest;

/** From a sequence that has been read to an answer: the token loop and its stop rules ({@code runtime/decoding/generate.py}). */
final class AnswerLoop {
    private final CachedSequence track;
    private final Manifest manifest;
    private final GenerationOptions options;
    private final CachedSequence.Watch watch;
    private final Sampler sampler;
    /** "rope" when the LongRoPE boundary was crossed on the way. */
    String reprefilled;

    AnswerLoop(CachedSequence track, Manifest manifest, GenerationOptions options, CachedSequence.Watch watch) {
        this.track = track;
        this.manifest = manifest;
        this.options = options.or(manifest.processor.text.generation);
        this.watch = watch;
        sampler = new Sampler(this.options, manifest.decoder.sampledNever, track.ids());
    }

    /**
     * Sample one answer. A sampled token is shown before the decoder reads it, so the last one of an answer is read only
     * when the conversation goes on.
     */
    Reply.FinishReason run(Transcript transcript, Timings clock, AnswerListener listener) {
        for (int left = options.maxTokens() - 1; left >= 0; left--) {
            if (watch.isCancelled()) {
                return Reply.FinishReason.CANCELLED;
            }
            int token = sampler.draw(track.logits());
            clock.token();
            for (int eos : manifest.processor.text.eosIds) {
                if (token == eos) {
                    return Reply.FinishReason.EOS;
                }
            }
            String piece = transcript.push(token);
            if (!piece.isEmpty()) {
                listener.onPiece(piece);
            }
            if (transcript.isStopped()) {
                return Reply.FinishReason.STOP_STRING;
            }
            if (left > 0 && track.room() == 0) {
                return Reply.FinishReason.CONTEXT_FULL;
            }
            if (left > 0) {
                String reason = track.step(token, watch);
                reprefilled = reason != null ? reason : reprefilled;
            }
        }
        return Reply.FinishReason.MAX_TOKENS;
    }
}
