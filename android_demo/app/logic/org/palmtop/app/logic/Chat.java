package org.palmtop.app.logic;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;
import org.palmtop.app.logic.ChatState.Phase;
import org.palmtop.core.bundle.BundleProgress;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.engine.AnswerListener;

/**
 * The chat as a state machine, apart from any screen: it lives as long as the app's process, screens come and go.
 *
 * <p>Calls return at once; work is done on one worker thread. Watchers hear of every change, on either thread.
 */
public final class Chat {
    /** Hears that something changed; asks {@link #state} and {@link #entries} for what. */
    public interface Watcher {
        void onChange();
    }

    private final Answerer answerer;
    private final History history;
    private final Dialogue.MediaOpener media;
    private final Executor worker;
    private final Watchers watchers = new Watchers();
    private final List<Attachment> attached = new ArrayList<Attachment>();
    private Settings settings;
    private Phase phase = Phase.NO_MODEL;
    private String model = "";
    private File folder;
    private Manifest manifest;
    private double progress;
    private AnswerListener.Stage stage;
    private Trouble trouble;
    private String detail = "";
    private boolean isStopAsked;

    public Chat(Answerer answerer, History history, Settings settings, Dialogue.MediaOpener media, Executor worker) {
        this.answerer = answerer;
        this.history = history;
        this.settings = settings;
        this.media = media;
        this.worker = worker;
    }

    public void watch(Watcher watcher) {
        watchers.add(watcher);
    }

    public void unwatch(Watcher watcher) {
        watchers.remove(watcher);
    }

    public List<Entry> entries() {
        return history.open().entries();
    }

    /** Whether the phone had no room to keep the chat. */
    public boolean isNotSaved() {
        return history.open().saveError() != null;
    }

    public synchronized ChatState state() {
        List<String> names = new ArrayList<String>();
        if (manifest != null) {
            for (Manifest.Adapter adapter : manifest.adapters) {
                names.add(adapter.name);
            }
        }
        return new ChatState(
                phase, model, progress, stage, trouble, detail, attached,
                takes(Attachment.image("", 0, 0)), takes(Attachment.audio("", 0)), names);
    }

    public synchronized Settings settings() {
        return settings;
    }

    public void setSettings(Settings chosen) {
        synchronized (this) {
            settings = chosen;
        }
        watchers.tell();
    }

    /** Manifest of the open model; null when none is open. */
    public synchronized Manifest manifest() {
        return manifest;
    }

    public synchronized File modelFolder() {
        return folder;
    }

    /** Tokens that the open model's conversation may hold. */
    public int contextTokens() {
        return answerer.contextTokens();
    }

    /** Open a model; an answer that is being given is stopped first. */
    public void open(final File modelFolder, final String name) {
        synchronized (this) {
            isStopAsked = true;
            folder = modelFolder;
            model = name;
            manifest = null;
            trouble = null;
            detail = "";
            progress = 0;
            phase = Phase.OPENING;
        }
        answerer.cancel();
        watchers.tell();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                openNow(modelFolder);
            }
        });
    }

    /** A model is being copied to the phone and will be opened after it. */
    public void prepare(String name, double share) {
        synchronized (this) {
            model = name;
            trouble = null;
            phase = Phase.OPENING;
            progress = share;
        }
        watchers.tell();
    }

    /** There will be no model, for this reason. */
    public void refuse(Throwable error) {
        synchronized (this) {
            phase = Phase.NO_MODEL;
            trouble = Trouble.of(error);
            detail = Trouble.detail(error);
        }
        watchers.tell();
    }

    /** No model: there is none on the phone, or the one that was open has been deleted. */
    public void closeModel() {
        synchronized (this) {
            folder = null;
            model = "";
            trouble = Trouble.MODEL_MISSING;
            detail = "";
        }
        giveBack(Phase.NO_MODEL);
    }

    /** Free the model's memory when the phone is short of it and no screen is shown. */
    public void sleep() {
        synchronized (this) {
            if (phase != Phase.READY) {
                return;
            }
        }
        giveBack(Phase.ASLEEP);
    }

    /** Somebody looks again. */
    public void wake() {
        File again;
        synchronized (this) {
            again = phase == Phase.ASLEEP ? folder : null;
        }
        if (again != null) {
            open(again, model);
        }
    }

    /** Add to the message that is being typed; false when the model does not take it. */
    public boolean attach(Attachment attachment) {
        synchronized (this) {
            if (!takes(attachment)) {
                return false;
            }
            attached.add(attachment);
        }
        watchers.tell();
        return true;
    }

    public void detach(Attachment attachment) {
        synchronized (this) {
            attached.remove(attachment);
        }
        watchers.tell();
    }

    /** Ask. Ignored while the model is not ready, or when there is nothing to send. */
    public boolean send(String text) {
        Transcript transcript;
        synchronized (this) {
            if (phase != Phase.READY || (text.trim().isEmpty() && attached.isEmpty())) {
                return false;
            }
            transcript = history.open();
            transcript.add(Entry.user(text.trim(), attached));
            attached.clear();
            beginReading();
        }
        ask(transcript);
        return true;
    }

    /** Ask the last question again: its answer failed, was cut short or did not please. */
    public boolean retry() {
        Transcript transcript;
        synchronized (this) {
            transcript = history.open();
            Entry last = transcript.last();
            if (phase != Phase.READY || last == null || last.isUser) {
                return false;
            }
            transcript.removeLast();
            beginReading();
        }
        ask(transcript);
        return true;
    }

    /** Stop the answer; what was written stays. */
    public void stop() {
        synchronized (this) {
            if (phase != Phase.READING && phase != Phase.WRITING) {
                return;
            }
            isStopAsked = true;
            phase = Phase.STOPPING;
        }
        answerer.cancel();
        watchers.tell();
    }

    /** Open a new, empty chat; the one that was open is kept. */
    public boolean begin() {
        synchronized (this) {
            if (state().isAnswering()) {
                return false;
            }
            history.begin();
            attached.clear();
        }
        watchers.tell();
        return true;
    }

    /** Open a kept chat; false while an answer is being given, or when the chat cannot be read. */
    public boolean resume(String id) {
        synchronized (this) {
            if (state().isAnswering() || !history.open(id)) {
                return false;
            }
            attached.clear();
        }
        watchers.tell();
        return true;
    }

    /** Delete a kept chat and the files that it holds; false while an answer is being given. */
    public boolean delete(String id, File mediaFolder) {
        synchronized (this) {
            if (state().isAnswering()) {
                return false;
            }
            history.delete(id, mediaFolder);
        }
        watchers.tell();
        return true;
    }

    /** Lend the engine, for the benchmark; false when it is not ready. The work runs on the worker thread. */
    public boolean lend(final Runnable work) {
        synchronized (this) {
            if (phase != Phase.READY) {
                return false;
            }
            phase = Phase.MEASURING;
        }
        watchers.tell();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                try {
                    work.run();
                } finally {
                    settle(Phase.MEASURING);
                }
            }
        });
        return true;
    }

    private void beginReading() {
        isStopAsked = false;
        progress = 0;
        stage = null;
        phase = Phase.READING;
    }

    private void ask(final Transcript transcript) {
        // Saved before the answer begins, so that a killed app finds the question and where the answer was.
        transcript.add(Entry.answer("", Entry.Status.WRITING, ""));
        transcript.save();
        watchers.tell();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                answerNow(transcript);
            }
        });
    }

    private void openNow(File modelFolder) {
        try {
            final long total = ModelShelf.bytesIn(modelFolder);
            answerer.open(modelFolder, new BundleProgress() {
                private long done;

                @Override
                public void onBytes(long count) {
                    done += count;
                    report(null, total == 0 ? 0 : Math.min(1.0, done / (double) total));
                }
            });
            synchronized (this) {
                if (modelFolder.equals(folder)) {
                    manifest = answerer.manifest();
                    phase = Phase.READY;
                }
            }
        } catch (RuntimeException error) {
            openFailed(error);
        } catch (LinkageError error) { // the native libraries do not load on this phone
            openFailed(error);
        } catch (OutOfMemoryError error) {
            openFailed(error);
        }
        watchers.tell();
    }

    private void openFailed(Throwable error) {
        answerer.close();
        synchronized (this) {
            phase = Phase.NO_MODEL;
            trouble = Trouble.of(error);
            detail = Trouble.detail(error);
        }
    }

    private void giveBack(Phase next) {
        synchronized (this) {
            isStopAsked = true;
            manifest = null;
            phase = next;
        }
        answerer.cancel();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                answerer.close();
            }
        });
        watchers.tell();
    }

    private void answerNow(Transcript transcript) {
        List<Entry> asked = transcript.entries();
        asked.remove(asked.size() - 1);
        Answering answering = new Answering(this, answerer, transcript);
        Settings chosen = settings();
        Manifest now = manifest();
        Entry result = isStopAsked() || now == null
                ? Entry.answer("", Entry.Status.STOPPED, "")
                : answering.run(asked, chosen, now, media);
        transcript.replaceLast(result);
        transcript.save();
        settle(null);
    }

    /** Back to ready, unless the model was changed or closed meanwhile. */
    private void settle(Phase expected) {
        synchronized (this) {
            if (expected == null ? state().isAnswering() : phase == expected) {
                phase = Phase.READY;
                stage = null;
                progress = 0;
            }
        }
        watchers.tell();
    }

    /** Something beside the chat changed that its screen shows. */
    void tell() {
        watchers.tell();
    }

    synchronized boolean isStopAsked() {
        return isStopAsked;
    }

    /** The first word is out. */
    void writing() {
        synchronized (this) {
            if (phase == Phase.READING) {
                phase = Phase.WRITING;
            }
        }
        watchers.tell();
    }

    /** Progress of opening or reading. */
    void report(AnswerListener.Stage now, double share) {
        synchronized (this) {
            stage = now;
            progress = share;
        }
        watchers.tell();
    }

    private boolean takes(Attachment attachment) {
        if (manifest == null) {
            return false;
        }
        List<Attachment> all = new ArrayList<Attachment>(attached);
        all.add(attachment);
        return manifest.modes().contains(Dialogue.mode(history.open().entries(), all));
    }
}
