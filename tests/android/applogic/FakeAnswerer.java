import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.palmtop.app.logic.Answerer;
import org.palmtop.core.bundle.BundleProgress;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.engine.AnswerListener;
import org.palmtop.core.engine.GenerationOptions;
import org.palmtop.core.engine.Message;
import org.palmtop.core.engine.Reply;
import org.palmtop.core.engine.Usage;

/** An engine that answers what it is told to, with the real manifest of a bundle. */
final class FakeAnswerer implements Answerer {
    String[] pieces = {"for", "ty", "-two"};
    RuntimeException failure;
    Reply.FinishReason reason = Reply.FinishReason.EOS;
    Error openError;
    /** When set, the answer waits before its second piece until the latch falls or it is cancelled. */
    CountDownLatch gate;
    /** When set, it hears that the first piece is out. */
    CountDownLatch started;
    List<Message> asked = new ArrayList<Message>();
    Map<String, Double> adapters;
    GenerationOptions options;
    int opened;
    int closed;
    volatile boolean isCancelled;
    private Manifest manifest;

    @Override
    public void open(File folder, BundleProgress checked) {
        if (openError != null) {
            throw openError;
        }
        PalmtopBundle bundle = PalmtopBundle.open(folder);
        bundle.checkHashes(null, checked);
        manifest = bundle.manifest();
        opened++;
    }

    @Override
    public Manifest manifest() {
        return manifest;
    }

    @Override
    public int contextTokens() {
        return manifest == null ? 0 : manifest.decoder.contextLength;
    }

    @Override
    public Reply answer(
            List<Message> messages, Map<String, Double> chosen, GenerationOptions how, AnswerListener listener) {
        asked = messages;
        adapters = chosen;
        options = how;
        isCancelled = false;
        listener.onProgress(AnswerListener.Stage.READING, 1, 2);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < pieces.length && !isCancelled; i++) {
            text.append(pieces[i]);
            listener.onPiece(pieces[i]);
            if (i == 0) {
                pause();
            }
            if (failure != null) {
                throw failure;
            }
        }
        Reply.FinishReason reason = isCancelled ? Reply.FinishReason.CANCELLED : this.reason;
        Usage usage = new Usage(9, 0, 0, pieces.length, null, 0.25, 12.5);
        return new Reply(text.toString(), new int[0], reason, "text", Collections.singletonMap("vision", 1.0), usage);
    }

    private void pause() {
        if (started != null) {
            started.countDown();
        }
        try {
            while (gate != null && gate.getCount() > 0 && !isCancelled) {
                Thread.sleep(2);
            }
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    @Override
    public void cancel() {
        isCancelled = true;
    }

    @Override
    public void close() {
        manifest = null;
        closed++;
    }
}
