package org.palmtop.app.logic;

import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.engine.AnswerListener;
import org.palmtop.core.engine.Message;
import org.palmtop.core.engine.Reply;

/** One answer, from the question to the entry that stays: grows in the transcript, and is saved now and then. */
final class Answering implements AnswerListener {
    private static final long SAVE_EVERY_NANOS = 2_000_000_000L;

    private final Chat chat;
    private final Answerer answerer;
    private final Transcript transcript;
    private final StringBuilder text = new StringBuilder();
    private long savedAt = System.nanoTime();

    Answering(Chat chat, Answerer answerer, Transcript transcript) {
        this.chat = chat;
        this.answerer = answerer;
        this.transcript = transcript;
    }

    /** Blocks; whatever goes wrong becomes an entry that says so. */
    Entry run(List<Entry> asked, Settings settings, Manifest manifest, Dialogue.MediaOpener media) {
        try {
            List<Message> messages = Dialogue.messages(asked, settings.systemPrompt, media);
            return finished(answerer.answer(messages, settings.adapters(manifest), settings.options(), this));
        } catch (RuntimeException error) {
            return Entry.failure(text.toString(), Trouble.of(error), Trouble.detail(error));
        } catch (OutOfMemoryError error) {
            return Entry.failure(text.toString(), Trouble.MEMORY, Trouble.detail(error));
        }
    }

    @Override
    public void onPiece(String piece) {
        text.append(piece);
        transcript.replaceLast(Entry.answer(text.toString(), Entry.Status.WRITING, ""));
        if (System.nanoTime() - savedAt > SAVE_EVERY_NANOS) {
            transcript.save();
            savedAt = System.nanoTime();
        }
        stopIfAsked();
        chat.writing();
    }

    @Override
    public void onProgress(Stage now, int done, int total) {
        stopIfAsked();
        chat.report(now, total == 0 ? 0 : done / (double) total);
    }

    /** Stop may have been pressed before the engine had begun, and been lost. */
    private void stopIfAsked() {
        if (chat.isStopAsked()) {
            answerer.cancel();
        }
    }

    private static Entry finished(Reply reply) {
        boolean isCancelled = reply.finishReason == Reply.FinishReason.CANCELLED;
        StringBuilder detail = new StringBuilder();
        detail.append(reply.usage.completionTokens).append(" tokens");
        if (reply.finishReason == Reply.FinishReason.MAX_TOKENS) {
            detail.append(" · cut: longest answer");
        } else if (reply.finishReason == Reply.FinishReason.CONTEXT_FULL) {
            detail.append(" · cut: context full");
        }
        if (reply.usage.tokensPerSecond > 0) {
            detail.append(String.format(Locale.ROOT, " · %.1f/s", reply.usage.tokensPerSecond));
        }
        detail.append(String.format(Locale.ROOT, " · first after %.2f s", reply.usage.ttftSeconds));
        for (Map.Entry<String, Double> adapter : reply.adapters.entrySet()) {
            detail.append(" · ").append(adapter.getKey());
        }
        return Entry.answer(reply.text, isCancelled ? Entry.Status.STOPPED : Entry.Status.DONE, detail.toString());
    }
}
