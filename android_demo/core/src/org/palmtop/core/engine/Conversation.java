package org.palmtop.core.engine;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.text.Prompt;
import org.palmtop.core.text.TextProcessor;

/**
 * A dialogue and the decoder that has read it ({@code runtime/chat/conversation.py}). Every turn is given whole; what it
 * shares with the last one is not read again, so going on, editing and retrying are one operation.
 */
public final class Conversation implements AutoCloseable {
    private final Manifest manifest;
    final CachedSequence track;
    private final TextProcessor text;
    private final MediaReader media;
    private final int context;
    private List<Spoken> spoken = new ArrayList<Spoken>();
    private volatile boolean isCancelled;

    /** An answer as it was sampled: its tokens need not be those that its text would get. */
    private static final class Spoken {
        final int[] prompt;
        final int[] ids;
        final String text;

        Spoken(int[] prompt, int[] ids, String text) {
            this.prompt = prompt;
            this.ids = ids;
            this.text = text;
        }
    }

    /** Messages, ready to be read by the decoder. */
    static final class Question {
        final TokenSequence passage;
        final List<MediaItem> items;
        final Choice choice;

        Question(TokenSequence passage, List<MediaItem> items, Choice choice) {
            this.passage = passage;
            this.items = items;
            this.choice = choice;
        }
    }

    Conversation(Manifest manifest, CachedSequence track, TextProcessor text, MediaReader media, int context) {
        this.manifest = manifest;
        this.track = track;
        this.text = text;
        this.media = media;
        this.context = context;
    }

    /**
     * Answer a list of messages, the last one the user's. Blocks; call it on a worker thread. A cancelled answer is a
     * reply too. After a {@code PalmtopException} the conversation can be asked again.
     *
     * @param adapters name to weight, beside or instead of the route's ({@link Choice}); empty for none; null lets the
     *     route decide.
     */
    public Reply respond(
            List<Message> messages, Map<String, Double> adapters, GenerationOptions options, AnswerListener listener) {
        return respond(messages, adapters, null, options, listener);
    }

    /** Answer under the route of this name, such as one of {@link Manifest#tasks}; null takes that of the input. */
    public synchronized Reply respond(
            List<Message> messages,
            Map<String, Double> adapters,
            String route,
            GenerationOptions options,
            AnswerListener listener) {
        isCancelled = false;
        Timings clock = new Timings();
        Watch watch = new Watch(listener);
        Question question = ask(messages, adapters, route);
        TokenSequence passage = question.passage;
        Transcript transcript = new Transcript(text.pieces(), options.stop());
        Reply.FinishReason reason = Reply.FinishReason.CANCELLED;
        int cached = 0;
        String reprefilled = null;
        try {
            prefill(question, watch);
            cached = track.common;
            reprefilled = track.reprefilled;
            AnswerLoop loop = new AnswerLoop(track, manifest, options, watch);
            reason = loop.run(transcript, clock, listener);
            reprefilled = loop.reprefilled != null ? loop.reprefilled : reprefilled;
        } catch (CachedSequence.Cancelled stopped) {
            // What was said so far is the answer.
        } finally {
            String rest = transcript.finish();
            if (!transcript.isStopped()) {
                spoken.add(new Spoken(passage.ids, transcript.ids.toArray(), transcript.text()));
            }
            if (!rest.isEmpty()) {
                listener.onPiece(rest);
            }
        }
        Usage usage = new Usage(
                passage.length(),
                cached,
                passage.mediaRows(),
                transcript.ids.size(),
                reprefilled,
                clock.ttftSeconds(),
                clock.tokensPerSecond());
        Choice choice = question.choice;
        return new Reply(
                transcript.text(), transcript.ids.toArray(), reason, choice.mode, switchedOn(choice), usage);
    }

    /** Stop the answer that is being given, between two tokens or two steps of reading; from any thread. */
    public void cancel() {
        isCancelled = true;
    }

    /** Free the KV cache; the next turn would read everything again. */
    @Override
    public synchronized void close() {
        track.close();
        spoken.clear();
    }

    /** Messages become a passage and a route; nothing native runs. */
    Question ask(List<Message> messages, Map<String, Double> adapters, String route) {
        List<MediaItem> items = new ArrayList<MediaItem>();
        List<TextProcessor.Turn> turns = new ArrayList<TextProcessor.Turn>();
        for (Message message : messages) {
            List<String> kinds = new ArrayList<String>();
            for (MediaItem item : message.media) {
                kinds.add(item.kind);
            }
            items.addAll(message.media);
            turns.add(new TextProcessor.Turn(message.role, message.text, kinds));
        }
        Prompt prompt = text.prompt(turns);
        Choice choice = Choice.of(manifest, modeOf(items), adapters, route);
        return new Question(passage(prompt, items, choice), items, choice);
    }

    /** Bring the decoder to the end of a question. */
    void prefill(Question question, Watch watch) {
        writeMedia(question.passage, question.items, question.choice, watch);
        track.prefill(question.passage, question.choice.gates(manifest), watch);
    }

    /** The prompt in which media have their rows; earlier answers stand in it as they were sampled. */
    private TokenSequence passage(Prompt prompt, List<MediaItem> items, Choice choice) {
        List<List<Prompt.Segment>> segments = new ArrayList<List<Prompt.Segment>>();
        Map<String, Integer> counts = new LinkedHashMap<String, Integer>();
        for (MediaItem item : items) {
            int index = counts.containsKey(item.kind) ? counts.get(item.kind) : 0;
            counts.put(item.kind, index + 1);
            segments.add(media.segments(item, index));
        }
        Prompt.Expanded expanded = prompt.expand(segments);
        TokenSequence plain = asSpoken(new TokenSequence(expanded.ids, expanded.places, new ArrayList<TokenSequence.Span>()));
        List<TokenSequence.Span> spans = new ArrayList<TokenSequence.Span>();
        long first = 1;
        int at = 0;
        for (int i = 0; i < items.size(); i++) {
            while (plain.places[at] != first) {
                at++;
            }
            MediaItem item = items.get(i);
            // The same sound through another projector counts as another.
            String projector = item.kind.equals("audio") ? ":" + choice.audioProjector : "";
            int rows = Prompt.Segment.rowsOf(segments.get(i));
            spans.add(new TokenSequence.Span(at, rows, item.kind + ":" + item.key + projector));
            first += rows;
        }
        TokenSequence passage = new TokenSequence(plain.ids, plain.places, spans);
        if (passage.length() > context) {
            throw PalmtopException.input("the prompt has " + passage.length() + " tokens (" + passage.mediaRows()
                    + " of them images and sounds), this session's context is " + context
                    + "; shorten it, drop older turns, or load with a longer one (the bundle serves "
                    + manifest.decoder.contextLength + ")");
        }
        return passage;
    }

    private void writeMedia(TokenSequence passage, final List<MediaItem> items, final Choice choice, final Watch watch) {
        track.writeMedia(passage, new CachedSequence.Features() {
            @Override
            public void write(int number, FloatBuffer into) {
                MediaItem item = items.get(number);
                watch.stage = item.kind.equals("image") ? AnswerListener.Stage.SEEING : AnswerListener.Stage.LISTENING;
                media.features(item, choice.audioProjector.equals("vision"), into, watch);
            }
        });
    }

    /**
     * Return the sequence with the text of earlier answers replaced by their sampled tokens: tokenising the text need
     * not give the same ids, and only with the sampled ids the cache stays valid.
     */
    private TokenSequence asSpoken(TokenSequence passage) {
        List<Spoken> kept = new ArrayList<Spoken>();
        for (Spoken answer : spoken) {
            int start = answer.prompt.length;
            if (passage.length() <= start || !Arrays.equals(Arrays.copyOf(passage.ids, start), answer.prompt)) {
                continue;
            }
            int end = start;
            boolean hasMedia = false;
            while (end < passage.length() && !isEnd(passage.ids[end])) {
                hasMedia |= passage.places[end] != 0;
                end++;
            }
            if (hasMedia || !text.decode(Arrays.copyOfRange(passage.ids, start, end)).equals(answer.text)) {
                continue;
            }
            int length = passage.length() - (end - start) + answer.ids.length;
            int[] ids = Arrays.copyOf(passage.ids, length);
            long[] places = new long[length];
            System.arraycopy(passage.places, 0, places, 0, start);
            System.arraycopy(answer.ids, 0, ids, start, answer.ids.length);
            int behind = start + answer.ids.length;
            System.arraycopy(passage.ids, end, ids, behind, passage.length() - end);
            System.arraycopy(passage.places, end, places, behind, passage.length() - end);
            passage = new TokenSequence(ids, places, passage.media);
            kept.add(answer);
        }
        spoken = kept;
        return passage;
    }

    private boolean isEnd(int id) {
        for (int eos : manifest.processor.text.eosIds) {
            if (id == eos) {
                return true;
            }
        }
        return false;
    }

    private static String modeOf(List<MediaItem> items) {
        boolean hasImage = false;
        boolean hasAudio = false;
        for (MediaItem item : items) {
            hasImage |= item.kind.equals("image");
            hasAudio |= item.kind.equals("audio");
        }
        return Choice.modeOf(hasImage, hasAudio);
    }

    private static Map<String, Double> switchedOn(Choice choice) {
        Map<String, Double> result = new LinkedHashMap<String, Double>();
        for (Map.Entry<String, Double> entry : choice.adapters.entrySet()) {
            if (entry.getValue() != 0) {
                result.put(entry.getKey(), entry.getValue());
            }
        }
        return result;
    }

    /** Cancellation and progress, as both halves of a turn ask for them. */
    final class Watch implements CachedSequence.Watch, Encoders.Watch {
        private final AnswerListener listener;
        private AnswerListener.Stage stage;

        Watch(AnswerListener listener) {
            this.listener = listener;
        }

        @Override
        public boolean isCancelled() {
            return isCancelled;
        }

        @Override
        public void onDone(int done, int total) {
            listener.onProgress(stage, done, total);
        }

        @Override
        public void onRead(int done, int total) {
            if (total > 1) {
                listener.onProgress(AnswerListener.Stage.READING, done, total);
            }
        }
    }
}
