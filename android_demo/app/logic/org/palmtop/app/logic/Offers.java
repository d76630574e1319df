package org.palmtop.app.logic;

import java.util.ArrayList;
import java.util.List;

/**
 * Pictures and sounds from outside the app, on their way into the message that is being typed. A share may start the
 * app: what comes while a model is being opened waits for it.
 */
public final class Offers implements Chat.Watcher {
    /** Hears what became of an offer, on any thread; {@code refusal} is null when it was attached. */
    public interface Listener {
        void onOutcome(Attachment attachment, Trouble refusal, String detail);
    }

    private static final class Offer {
        final Attachment attachment;
        final Listener listener;

        Offer(Attachment attachment, Listener listener) {
            this.attachment = attachment;
            this.listener = listener;
        }
    }

    private final Chat chat;
    private List<Offer> waiting = new ArrayList<Offer>();
    private int reading;

    public Offers(Chat chat) {
        this.chat = chat;
        chat.watch(this);
    }

    /** A file is being copied or decoded, until {@link #readingEnds}. */
    public void readingBegins() {
        count(1);
    }

    public void readingEnds() {
        count(-1);
    }

    public synchronized boolean isReading() {
        return reading > 0;
    }

    /** Longest sound that can be offered now, in seconds. */
    public int limitSeconds() {
        int limit = RecordingLimit.seconds(chat.manifest(), chat.contextTokens());
        return limit > 0 ? limit : RecordingLimit.MAXIMUM_SECONDS; // no model yet, or one that refuses any sound
    }

    public void add(Attachment attachment, Listener listener) {
        synchronized (this) {
            waiting.add(new Offer(attachment, listener));
        }
        onChange();
    }

    @Override
    public void onChange() {
        ChatState.Phase phase = chat.state().phase;
        if (phase == ChatState.Phase.OPENING || phase == ChatState.Phase.ASLEEP) {
            return;
        }
        List<Offer> now;
        synchronized (this) {
            now = waiting;
            waiting = new ArrayList<Offer>();
        }
        for (Offer offer : now) {
            decide(offer);
        }
    }

    private void decide(Offer offer) {
        Attachment attachment = offer.attachment;
        boolean isImage = attachment.kind == Attachment.Kind.IMAGE;
        Trouble refusal = null;
        String detail = "";
        int limit = limitSeconds();
        if (chat.manifest() == null) {
            refusal = Trouble.MODEL_MISSING;
        } else if (!isImage && attachment.seconds > limit) {
            refusal = Trouble.SOUND_TOO_LONG;
            detail = new SoundImport.TooLong(attachment.seconds, limit).getMessage();
        } else if (!chat.attach(attachment)) {
            refusal = isImage ? Trouble.PICTURE_UNSUPPORTED : Trouble.SOUND_UNSUPPORTED;
        }
        offer.listener.onOutcome(attachment, refusal, detail);
    }

    private void count(int change) {
        synchronized (this) {
            reading += change;
        }
        chat.tell();
    }
}
